"""A linear scan whose state decays, in chunks, whatever the decay."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from shared_attention.primitives.linear_scan import split_chunks
from shared_attention.primitives.segments import in_segments


def decayed_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    state: Tensor | None = None,
    *,
    chunk: int = 64,
) -> tuple[Tensor, Tensor]:
    """Return out_t = q_t S_t with S_t = diag(exp(log_decay_t)) S_{t-1} + k_t v_tᵀ.

    Gated linear attention, diagonal state space models and gated recurrent networks are this
    recurrence. The weight of key j for query t, exp of the decays from j + 1 to t, is split at
    the boundary of two blocks of 1, 2, 4, ... positions into exp(to the boundary) and
    exp(from the boundary). Both are sums of terms of one sign and at most 1, so nothing
    overflows and nothing cancels, however strong the decay.

    Args:
        q: `[B, H, L, F]`.
        k: `[B, H, L, F]`.
        v: `[B, H, L, D]`.
        log_decay: `[B, H, L, F]`, or `[B, H, L, 1]` for one decay per head; at most 0.
        state: `[B, H, F, D]` of earlier positions.
        chunk: Positions per chunk, a power of 2.

    Returns:
        `(out [B, H, L, D], state [B, H, F, D])`, both float32 for half-precision inputs.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    inputs = (q.to(wide), k.to(wide), v.to(wide), log_decay.to(wide))
    return in_segments(partial(_scan, chunk=chunk), inputs, state)


def _scan(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor | None, chunk: int
) -> tuple[Tensor, Tensor]:
    length = q.shape[2]
    if length == 1:
        after = k.mT @ v
        after = after if state is None else log_decay.exp().mT * state + after
        return q @ after, after
    chunk = min(chunk, 1 << (length - 1).bit_length())
    q, k, v, log_decay = (split_chunks(x, chunk) for x in (q, k, v, log_decay))
    weights, from_start, to_end = _within(q, k, log_decay)
    sums = (k * to_end.exp()).mT @ v
    decays = from_start[..., -1:, :].exp().mT
    after = torch.zeros_like(sums[:, :, 0]) if state is None else state.to(q.dtype)
    before = []
    for decay, added in zip(decays.unbind(2), sums.unbind(2), strict=True):
        before.append(after)
        after = torch.addcmul(added, decay, after)
    out = weights @ v + (q * from_start.exp()) @ torch.stack(before, dim=2)
    return out.flatten(2, 3)[:, :, :length], after


def decay_matrix(log_decay: Tensor) -> Tensor:
    """Return exp of the log decays after j up to t, zero for j > t: `[..., C, 1]` to `[..., C, C]`.

    Each is a sum of its own terms, not a difference of running sums, so weak decays keep their
    precision behind strong ones.
    """
    chunk = log_decay.shape[-2]
    after = log_decay.expand(*log_decay.shape[:-1], chunk).tril(-1)
    return after.cumsum(-2).exp().tril()


def _within(q: Tensor, k: Tensor, log_decay: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights within each chunk, and the log decays to its ends.

    Args:
        q: `[..., C, F]`, C a power of 2.
        k: `[..., C, F]`.
        log_decay: `[..., C, F]` or `[..., C, 1]`.

    Returns:
        Weights `[..., C, C]`, zero above the diagonal; log decay from before the chunk to each
        position and from each position to the last, `[..., C, F or 1]`.
    """
    chunk = q.shape[-2]
    weights = (q * k).sum(-1)[..., None, None]
    from_start, to_end = log_decay[..., None, :], torch.zeros_like(log_decay)[..., None, :]
    half = 1
    while half < chunk:
        old, new = from_start.unflatten(-3, (-1, 2)).unbind(-3)
        old_end, new_end = to_end.unflatten(-3, (-1, 2)).unbind(-3)
        queries = q.unflatten(-2, (-1, 2, half))[..., 1, :, :]
        keys = k.unflatten(-2, (-1, 2, half))[..., 0, :, :]
        across = (queries * new.exp()) @ (keys * old_end.exp()).mT
        first, second = weights.unflatten(-3, (-1, 2)).unbind(-3)
        weights = torch.cat([F.pad(first, (0, half)), torch.cat([across, second], -1)], -2)
        from_start = torch.cat([old, new + old[..., -1:, :]], -2)
        to_end = torch.cat([old_end + new[..., -1:, :], new_end], -2)
        half *= 2
    return weights.squeeze(-3), from_start.squeeze(-3), to_end.squeeze(-3)

"""Causal linear attention in chunks: quadratic within a chunk, a running sum between chunks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def linear_scan(
    q: Tensor, k: Tensor, v: Tensor, state: Tensor | None = None, *, chunk: int = 64
) -> tuple[Tensor, Tensor]:
    """Return out_i = q_i · (state + Σ_{j<=i} k_j v_jᵀ) and the state after the last position.

    Memory is O(L · chunk + L / chunk · F · D) instead of the O(L · F · D) of a running sum over
    positions. Sums between chunks are kept in float32 for half-precision inputs.
    `decayed_scan` lets the state decay.

    Args:
        q: Query features `[B, H, L, F]`.
        k: Key features `[B, H, L, F]`.
        v: Values `[B, H, L, D]`; append a column of ones to get a normaliser with them.
        state: `[B, H, F, D]` of earlier positions.
        chunk: Positions per chunk.

    Returns:
        `(out [B, H, L, D], state [B, H, F, D])`, both float32 for half-precision inputs.
    """
    length = q.shape[2]
    wide = torch.promote_types(q.dtype, torch.float32)
    if length == 1:
        after = (k.transpose(-2, -1) @ v).to(wide)
        after = after if state is None else state + after
        return q.to(wide) @ after, after
    q, k, v = (split_chunks(x, chunk).to(wide) for x in (q, k, v))
    before, after = sums_before(k, v, state)
    inside = (q @ k.transpose(-2, -1)).tril() @ v
    out = (inside + q @ before).flatten(2, 3)
    return out[:, :, :length], after


def sums_before(k: Tensor, v: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """Sum k_j v_jᵀ over everything before each chunk.

    Args:
        k: `[B, H, N, chunk, F]`.
        v: `[B, H, N, chunk, D]`.
        state: `[B, H, F, D]` of earlier positions.

    Returns:
        Sums before each chunk `[B, H, N, F, D]`, and after the last `[B, H, F, D]`.
    """
    sums = k.transpose(-2, -1) @ v
    if state is not None:
        sums = torch.cat([state[:, :, None].to(k.dtype), sums], dim=2)
    sums = sums.cumsum(dim=2)
    before = sums[:, :, :-1]
    if state is None:
        before = F.pad(before, (0, 0, 0, 0, 1, 0))
    return before, sums[:, :, -1]


def split_chunks(x: Tensor, chunk: int) -> Tensor:
    """Cut `[B, H, L, D]` into `[B, H, N, chunk, D]`, zeros at the end."""
    short = -x.shape[2] % chunk
    if short:
        x = F.pad(x, (0, 0, 0, short))
    return x.unflatten(2, (-1, chunk))

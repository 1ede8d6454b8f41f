"""What core context aware attention continues from: near positions and the core tokens so far."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from shared_attention.mechanisms.kv_state import empty_state
from shared_attention.primitives.attend import softmax
from shared_attention.primitives.fused import fused_attention
from shared_attention.primitives.heads import expand_heads
from shared_attention.primitives.ranks import packed, put_back, real_first, take
from shared_attention.primitives.topk import gather


class CoreContextState(NamedTuple):
    """The last `local + group - 1` real positions, and one core token for each group before."""

    k: Tensor
    """Near keys, the last of them last `[B, Hk, W, Dk]`."""
    v: Tensor
    """`[B, Hv, W, Dv]`."""
    cores: tuple[Tensor, Tensor] | None
    """Pooled keys and values of complete groups `[B, H, N, D]`; None before the first position."""
    real: Tensor
    """Number of real positions so far, int64 `[B]`."""
    positions: int
    """Number of positions so far, padding included."""


def empty_core_context(
    batch: int,
    kv_heads: int,
    key_dim: int,
    value_dim: int,
    *,
    group: int = 16,
    local: int = 256,
    **place: Any,
) -> CoreContextState:
    """Return the state of no positions; `place` is that of `empty_state`."""
    none = empty_state(batch, kv_heads, key_dim, value_dim, **place)
    k, v = (F.pad(x, (0, 0, local + group - 1, 0)) for x in (none.k, none.v))
    real = torch.zeros(batch, dtype=torch.int64, device=k.device)
    return CoreContextState(k, v, None, real, 0)


def advance(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: CoreContextState,
    valid: Tensor | None,
    group: int,
    local: int,
    scale: float,
) -> tuple[Tensor, CoreContextState]:
    """Attend causally from new positions to all seen so far, and return the state after them."""
    (heads, length), near = q.shape[1:3], state.k.shape[2]
    new = torch.full_like(state.real, length) if valid is None else valid.sum(1)
    if valid is not None:
        q, k, v = take(q, real_first(valid)), packed(k, valid), packed(v, valid)
    k, v = torch.cat([state.k, k], dim=2), torch.cat([state.v, v], dim=2)
    wide_k, wide_v = expand_heads(k, heads), expand_heads(v, heads)
    cores = _with_new_groups(q, wide_k, wide_v, state, new, group, scale)

    first = (state.real - near)[:, None]
    place = first + torch.arange(near + length, device=q.device)
    own = state.real[:, None] + torch.arange(length, device=q.device)
    resume = (own + 1 - local).clamp(min=0) // group * group
    seen = (place[:, None] >= resume[..., None]) & (place[:, None] <= own[..., None])
    start = torch.arange(cores[0].shape[2], device=q.device) * group
    seen = torch.cat([seen, start < resume[..., None]], dim=-1)[:, None]
    both_k, both_v = torch.cat([wide_k, cores[0]], dim=2), torch.cat([wide_v, cores[1]], dim=2)
    out = fused_attention(q, both_k, both_v, mask=seen, scale=scale)

    if valid is None:
        k, v = k[:, :, -near:], v[:, :, -near:]
    else:
        out = put_back(out, real_first(valid)).masked_fill(~valid[:, None, :, None], 0)
        kept = new[:, None] + torch.arange(near, device=q.device)
        k, v = take(k, kept), take(v, kept)
    return out, CoreContextState(k, v, cores, state.real + new, state.positions + length)


def pool_groups(
    q: Tensor, k: Tensor, v: Tensor, hidden: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Pool groups `[B, H, N, g, D]` with the attention of one query each, `q [B, H, N, D]`."""
    scores = (k @ (q * scale)[..., None]).squeeze(-1)
    weights = softmax(scores.masked_fill(hidden, -torch.inf))[..., None, :]
    return (weights @ k).squeeze(-2), (weights @ v).squeeze(-2)


def _with_new_groups(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: CoreContextState,
    new: Tensor,
    group: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Add the core tokens of the groups that new positions complete.

    Args:
        q: New queries `[B, H, L, D]`, the real ones first.
        k: Near and new keys `[B, H, W + L, D]`.
        v: Near and new values.
        state: State before.
        new: How many of the new positions are real `[B]`.
        group: Positions per core token.
        scale: Score scale.
    """
    heads, length = q.shape[1:3]
    after = (state.positions + length) // group
    old = (k[:, :, :0], v[:, :, :0]) if state.cores is None else state.cores
    most = torch.arange(-(-length // group), device=q.device)
    number = (state.real // group)[:, None] + most
    end = (number + 1) * group - state.real[:, None]
    complete = end <= new[:, None]
    if not complete.any():
        return old
    asking = gather(q, (end - 1).clamp(0, length - 1)[:, None].expand(-1, heads, -1))
    member = end[..., None] + torch.arange(-group, 0, device=q.device) + state.k.shape[2]
    member = member.clamp(0, k.shape[2] - 1).flatten(1)[:, None].expand(-1, heads, -1)
    groups = (gather(x, member).unflatten(2, (-1, group)) for x in (k, v))
    keys, values = groups
    hidden = ~complete[:, None, :, None]
    pooled = pool_groups(asking, keys, values, hidden, scale)
    slot = torch.where(complete, number, after)[:, None, :, None]

    def joined(x: Tensor, y: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, after + 1 - x.shape[2]))
        return x.scatter(2, slot.expand(-1, heads, -1, y.shape[-1]), y)[:, :, :after]

    return joined(old[0], pooled[0]), joined(old[1], pooled[1])

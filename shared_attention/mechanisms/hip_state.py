"""What HiP attention continues from: keys, values, mean keys of blocks and the query that leads."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from shared_attention.masks import Mask
from shared_attention.mechanisms.hip_search import Search, block_means, search_blocks
from shared_attention.mechanisms.kv_state import KeyValueState, empty_state
from shared_attention.primitives.block_sparse import attend_blocks
from shared_attention.primitives.fused import fused_attention
from shared_attention.primitives.heads import expand_heads
from shared_attention.primitives.ranks import packed, put_back, real_first, take
from shared_attention.primitives.topk import gather


class HipState(NamedTuple):
    """Everything seen so far; a step reads the mean keys and the blocks that it chooses."""

    seen: KeyValueState
    means: Tensor
    """Mean keys of the blocks of real positions so far `[B, Hk, N, Dk]`."""
    leader: Tensor | None
    """First query of the last block `[B, H, 1, Dk]`; None before the first position."""


def empty_hip(
    batch: int, kv_heads: int, key_dim: int, value_dim: int, **arguments: Any
) -> HipState:
    """Return the state of no positions; arguments are those of `empty_state`."""
    seen = empty_state(batch, kv_heads, key_dim, value_dim, **arguments)
    return HipState(seen, seen.k.to(torch.promote_types(seen.k.dtype, torch.float32)), None)


def advance(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: HipState,
    mask: Mask | None,
    search: Search,
    scale: float,
) -> tuple[Tensor, HipState]:
    """Attend causally from new positions to all seen so far, and return the state after them."""
    length, block = q.shape[2], search.block
    seen = state.seen.extended(k, v, mask)
    before, real = _real(state.seen), _real(seen)
    k, v, order = seen.k, seen.v, None
    if seen.valid is not None:
        order = real_first(seen.valid[:, -length:])
        q, k, v = take(q, order), packed(k, seen.valid), packed(v, seen.valid)
    asking = -(-(length + block - 1) // block)
    if seen.valid is None:
        asking = -(-(state.seen.k.shape[2] % block + length) // block)
    own = (before // block)[:, None] + torch.arange(asking, device=q.device)
    means = _update(state.means, k, own, real, block)
    run = _one if length == 1 else _several
    out, leader = run(q, k, v, state.leader, means, own, before, real, search, scale)
    if order is not None:
        assert seen.valid is not None
        hidden = ~seen.valid[:, None, -length:, None]
        out = put_back(out, order).masked_fill(hidden, 0)
    return out, HipState(seen, means, leader)


def _one(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    leader: Tensor | None,
    means: Tensor,
    own: Tensor,
    before: Tensor,
    real: Tensor,
    search: Search,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Attend from one position, reading the keys of its blocks only."""
    (batch, heads), kv_heads, block = q.shape[:2], k.shape[1], search.block
    starts = (before % block == 0)[:, None, None, None]
    leader = q if leader is None else torch.where(starts, q, leader)
    ids, used = _search(leader, means, own, real, search)
    position = ids[:, :, 0, :, None] * block + torch.arange(block, device=q.device)
    hidden = (position >= real[:, None, None, None]) | ~used[:, :, 0, :, None]
    index = position.clamp(max=k.shape[2] - 1).view(batch, kv_heads, -1)
    k, v = (_rows(x, index).view(batch, heads, -1, x.shape[3]) for x in (k, v))
    return fused_attention(q, k, v, mask=~hidden.flatten(2)[:, :, None], scale=scale), leader


def _several(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    leader: Tensor | None,
    means: Tensor,
    own: Tensor,
    before: Tensor,
    real: Tensor,
    search: Search,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Attend from new positions `[B, H, L, D]`; also the first query of the last block."""
    (batch, heads, length), block = q.shape[:3], search.block
    at = (before % block)[:, None]
    q = _in_blocks(q, leader, torch.arange(own.shape[1] * block, device=q.device) - at)
    leaders = q[:, :, ::block]
    ids, used = _search(leaders, means, own, real, search)
    k, v = (expand_heads(F.pad(x, (0, 0, 0, -x.shape[2] % block)), heads) for x in (k, v))
    out = attend_blocks(
        q, k, v, ids, used, real=real, causal=True, block=block, scale=scale, own=own
    )
    index = at + torch.arange(length, device=q.device)
    last = (real // block - before // block).clamp(max=own.shape[1] - 1)
    return take(out, index.expand(batch, -1)), take(leaders, last[:, None])


@torch.no_grad()
def _search(
    leaders: Tensor, means: Tensor, own: Tensor, real: Tensor, search: Search
) -> tuple[Tensor, Tensor]:
    """The key blocks of each query block, `[B, H, M, n]`, and which of them count."""
    leaders, means = leaders.to(means.dtype), expand_heads(means, leaders.shape[1])
    return search_blocks(leaders, means, own, -(-real // search.block), True, search)


def _real(seen: KeyValueState) -> Tensor:
    """Number of real positions `[B]`."""
    if seen.valid is not None:
        return seen.valid.sum(1)
    return torch.full((len(seen.k),), seen.k.shape[2], device=seen.k.device)


def _in_blocks(q: Tensor, leader: Tensor | None, place: Tensor) -> Tensor:
    """Put new queries where they stand in their blocks, after the first query of the block.

    Args:
        q: `[B, H, L, D]`.
        leader: First query of an unfinished block, `[B, H, 1, D]`.
        place: Which of `q` stands where, `[B, M * block]`; negative before the first of them.
    """
    length = q.shape[2]
    none = torch.zeros_like(q[:, :, :1])
    source = torch.cat([q, none, none if leader is None else leader], dim=2)
    index = torch.where((place < 0) | (place >= length), length, place)
    index[:, 0] = torch.where(place[:, 0] < 0, length + 1, index[:, 0])
    return gather(source, index[:, None].expand(-1, q.shape[1], -1))


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """Read positions `index [B, H or 1, n]` of `x [B, H, S, D]`, which may have gaps of memory."""
    batch, heads = (torch.arange(size, device=x.device) for size in x.shape[:2])
    return x[batch[:, None, None], heads[:, None], index]


def _update(means: Tensor, k: Tensor, own: Tensor, real: Tensor, block: int) -> Tensor:
    """Average again the blocks that new keys went to, `own [B, M]`."""
    heads, count = k.shape[1:3]
    blocks = -(-count // block)
    own = own.clamp(max=blocks - 1)
    position = own[..., None] * block + torch.arange(block, device=k.device)
    index = position.clamp(max=count - 1).flatten(1)[:, None]
    new = block_means(_rows(k, index), own, real, block)
    means = F.pad(means, (0, 0, 0, blocks - means.shape[2]))
    return means.scatter(2, own[:, None, :, None].expand(-1, heads, -1, k.shape[3]), new)

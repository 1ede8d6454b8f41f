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
    (batch, heads, length), block = q.shape[:3], search.block
    old, seen = state.seen, state.seen.extended(k, v, mask)
    before = _real(old)
    real, first = _real(seen), before // block
    order = None
    if seen.valid is not None:
        order = real_first(seen.valid[:, -length:])
        q, k, v = take(q, order), packed(seen.k, seen.valid), packed(seen.v, seen.valid)
    else:
        k, v = seen.k, seen.v

    asking = -(-(length + block - 1) // block)
    if seen.valid is None:
        asking = -(-(old.k.shape[2] % block + length) // block)
    own = first[:, None] + torch.arange(asking, device=q.device)
    place = torch.arange(asking * block, device=q.device) - (before % block)[:, None]
    q = _in_blocks(q, state.leader, place, block)
    leaders = q[:, :, ::block].to(state.means.dtype)
    blocks = -(-k.shape[2] // block)
    k, v = (F.pad(x, (0, 0, 0, -x.shape[2] % block)) for x in (k, v))
    means = _update(state.means, k, own, real, block, blocks)
    means_of = expand_heads(means, heads)
    with torch.no_grad():
        ids, used = search_blocks(leaders, means_of, own, -(-real // block), True, search)
    k, v = expand_heads(k, heads), expand_heads(v, heads)
    out = attend_blocks(
        q, k, v, ids, used, real=real, causal=True, block=block, scale=scale, own=own
    )
    index = (before % block)[:, None] + torch.arange(length, device=q.device)
    out = take(out, index.expand(batch, -1))
    last = (real // block - first).clamp(max=asking - 1)
    leader = take(q[:, :, ::block], last[:, None])
    if order is not None:
        assert seen.valid is not None
        hidden = ~seen.valid[:, None, -length:, None]
        out = put_back(out, order).masked_fill(hidden, 0)
    return out, HipState(seen, means, leader)


def _real(seen: KeyValueState) -> Tensor:
    """Number of real positions `[B]`."""
    if seen.valid is not None:
        return seen.valid.sum(1)
    return torch.full((len(seen.k),), seen.k.shape[2], device=seen.k.device)


def _in_blocks(q: Tensor, leader: Tensor | None, place: Tensor, block: int) -> Tensor:
    """Put new queries where they stand in their blocks, after the first query of the block.

    Args:
        q: `[B, H, L, D]`.
        leader: First query of an unfinished block, `[B, H, 1, D]`.
        place: Which of `q` stands where, `[B, M * block]`; negative before the first of them.
        block: Positions per block.
    """
    length = q.shape[2]
    none = torch.zeros_like(q[:, :, :1])
    source = torch.cat([q, none, none if leader is None else leader], dim=2)
    index = torch.where((place < 0) | (place >= length), length, place)
    index[:, 0] = torch.where(place[:, 0] < 0, length + 1, index[:, 0])
    return gather(source, index[:, None].expand(-1, q.shape[1], -1))


def _update(means: Tensor, k: Tensor, own: Tensor, real: Tensor, block: int, blocks: int) -> Tensor:
    """Average again the blocks that new keys went to, `own [B, M]`."""
    heads = k.shape[1]
    own = own.clamp(max=blocks - 1)
    position = own[..., None] * block + torch.arange(block, device=k.device)
    keys = gather(k, position.flatten(1)[:, None].expand(-1, heads, -1))
    new = block_means(keys, own, real, block)
    means = F.pad(means, (0, 0, 0, blocks - means.shape[2]))
    return means.scatter(2, own[:, None, :, None].expand(-1, heads, -1, k.shape[3]), new)

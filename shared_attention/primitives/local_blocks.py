"""Sliding-window attention as ordinary attention of query blocks to the keys around them."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from shared_attention.primitives.fused import fused_attention

SMALLEST_BLOCK = 32
LANES = 16
"""Keys per block are a multiple of this, for which processors' kernels are a fifth faster."""


class Beside(NamedTuple):
    """Keys that are offered to every block, beside those of its window."""

    k: Tensor
    """`[B, Hk, E, Dk]`."""
    v: Tensor
    """`[B, Hk, E, Dv]`."""
    mask: Tensor
    """Which query sees which of them, bool `[B or 1, L, E]`."""


def worth_blocking(left: int, right: int, keys: int) -> bool:
    """Say whether blocks beat one masked attention: the window is less than half of the keys."""
    return keys >= 2 * (left + right + 1)


def local_blocks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    left: int,
    right: int,
    keys: Tensor | None = None,
    scale: float | None = None,
    segments: Tensor | None = None,
    limits: tuple[Tensor, Tensor] | None = None,
    beside: Beside | None = None,
) -> Tensor:
    """Attend to the keys from `left` before to `right` after each query's position.

    Each block of C queries attends to the C + left + right keys around it, so time and memory
    are O(L · (C + left + right)); no L × S matrix exists. Positions are aligned bottom-right.

    Args:
        q: `[B, H, L, Dk]`.
        k: `[B, Hk, S, Dk]`, Hk dividing H.
        v: `[B, Hk, S, Dv]`.
        left: Earlier keys that are seen.
        right: Later keys that are seen.
        keys: bool `[B, S]`, the keys that are real.
        scale: Defaults to 1 / sqrt(Dk).
        segments: int `[B, S]` with L = S; only keys of the query's own segment are seen.
        limits: First and last key position that each query sees, int `[L]` each.
        beside: Keys that are seen as well; one softmax runs over both.

    Returns:
        `[B, H, L, Dv]`; zero for queries that see no key.
    """
    batch, _, length, _ = q.shape
    count = k.shape[2]
    block = max((left + right) // 4, SMALLEST_BLOCK)
    blocks = -(-length // block)
    span = -(-(block + left + right) // LANES) * LANES
    before = left - (count - length)
    after = (blocks - 1) * block + span - before - count
    spare = blocks * block - length
    if keys is None:
        keys = torch.ones(1, count, dtype=torch.bool, device=q.device)
    else:
        k, v = (x.masked_fill(~keys[:, None, :, None], 0) for x in (k, v))

    query = torch.arange(block, device=q.device)[:, None]
    key = torch.arange(span, device=q.device)[None, :]
    band = (key >= query) & (key <= query + left + right)
    real = F.pad(keys, (before, after)).unfold(1, span, block)
    mask = band & real[:, :, None, :]
    if limits is not None:
        first, last = (F.pad(x, (0, spare)).view(blocks, block, 1) for x in limits)
        position = key + (torch.arange(blocks, device=q.device) * block - before)[:, None, None]
        mask = mask & (position >= first) & (position <= last)
    if segments is not None:
        own = F.pad(segments, (0, spare)).unflatten(1, (blocks, block))
        mask = mask & (own[..., None] == _spans(segments, before, after, span, block))
    if beside is not None:
        also = F.pad(beside.mask, (0, 0, 0, spare)).unflatten(1, (blocks, block))
        slots = max(len(mask), len(also))
        mask = torch.cat([x.expand(slots, -1, -1, -1) for x in (mask, also)], dim=-1)
    mask = mask.expand(batch, -1, -1, -1).flatten(0, 1)[:, None]

    q = F.pad(q, (0, 0, 0, spare))
    q = q.unflatten(2, (blocks, block)).transpose(1, 2).flatten(0, 1)
    k, v = (_around(x, before, after, span, block) for x in (k, v))
    if beside is not None:
        k, v = (_join(x, extra, blocks) for x, extra in ((k, beside.k), (v, beside.v)))
    added = 1 - mask.to(q.dtype).reciprocal()
    out = fused_attention(q, k, v, mask=added, scale=scale)
    out = out.unflatten(0, (batch, blocks)).transpose(1, 2).flatten(2, 3)
    return out[:, :, :length]


def _around(x: Tensor, before: int, after: int, span: int, block: int) -> Tensor:
    """Gather the keys around each block: `[B, H, S, D]` to `[B * N, H, span, D]`."""
    padded = F.pad(x, (0, 0, before, after))
    return padded.unfold(2, span, block).permute(0, 2, 1, 4, 3).flatten(0, 1)


def _spans(segments: Tensor, before: int, after: int, span: int, block: int) -> Tensor:
    """Segments of the keys around each block, `[B, N, 1, span]`."""
    return F.pad(segments, (before, after)).unfold(1, span, block)[:, :, None]


def _join(x: Tensor, extra: Tensor, blocks: int) -> Tensor:
    """Append to each block's keys `[B * N, H, span, D]` those that all blocks share."""
    shared = extra[:, None].expand(-1, blocks, -1, -1, -1).flatten(0, 1)
    return torch.cat([x, shared], dim=2)

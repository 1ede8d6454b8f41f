"""Informer's sparsity measure of queries over sampled keys."""

from __future__ import annotations

import math

import torch
from torch import Tensor

BLOCK = 2**20
"""Scores held at a time: small enough for a processor's cache."""
GATHER_FROM = 40
"""Keys per sampled key from which fetching the sampled keys beats scoring all of them."""
WORD = 0xFFFFFFFF


def draw(length: int, factor: int) -> int:
    """Return factor * ceil(ln length), at least 1 and at most `length`."""
    return min(length, max(1, factor * math.ceil(math.log(length)))) if length else 0


def top_count(lengths: Tensor, factor: int) -> Tensor:
    """As `draw`, for a tensor of lengths."""
    count = factor * lengths.clamp(min=1).double().log().ceil().long()
    return torch.minimum(lengths, count.clamp(min=1))


def random_keys(
    rows: Tensor, seen: Tensor, keys: Tensor | None, samples: int, seed: int | Tensor
) -> Tensor:
    """Draw keys for each query among those it may see: the first `seen` of the valid ones.

    The draw is an integer hash of (seed, row, sample), so it does not depend on the padded
    length, the batch slot or the device.

    Args:
        rows: Number of each query `[B or 1, L]`.
        seen: Number of keys each query may see `[B or 1, L or 1]`.
        keys: Which keys are valid `[B, S]`; None when all are.
        samples: Number of keys U to draw for each query.
        seed: Seed below 2^32.

    Returns:
        Key positions `[B or 1, L, U]`.
    """
    sample = torch.arange(samples, device=rows.device)
    offset = (seed * 0xC2B2AE35) & WORD
    word = (rows[..., None] * 0x9E3779B1 + sample * 0x85EBCA6B + offset) & WORD
    for _ in range(2):
        word = ((word ^ (word >> 16)) * 0x45D9F3B) & WORD
    word = word ^ (word >> 16)
    rank = (word * seen[..., None]) >> 32
    if keys is None:
        return rank
    valid_first = (~keys).to(torch.uint8).argsort(dim=-1, stable=True)
    return valid_first.gather(1, rank.flatten(1)).view(rank.shape)


@torch.no_grad()
def sparsity(
    q: Tensor,
    k: Tensor,
    index: Tensor,
    active: Tensor | None,
    seen: Tensor,
    *,
    causal: bool = False,
) -> Tensor:
    """Return M = max - sum / seen of each query's scores over its sampled keys.

    Computed in at least float32, without gradients: it only ranks the queries.

    Args:
        q: Queries `[B, H, L, D]`.
        k: Keys `[B, H, S, D]`.
        index: Sampled key positions `[B or 1, L, U]`.
        active: Which samples count, of the shape of `index`; None when all do.
        seen: Number of keys each query may see `[B or 1, L or 1]`.
        causal: No active sample lies after its query: keys after a block are not scored.

    Returns:
        `[B, H, L]`; -inf for queries that may see nothing.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    q, k = q.to(wide), k.to(wide)
    batch, heads, length, width = q.shape
    samples, gathers = index.shape[-1], k.shape[2] > GATHER_FROM * index.shape[-1]
    cost = heads * (samples * width if gathers else k.shape[2])
    rows = min(length, max(1, BLOCK // max(1, cost)))
    slots = max(1, BLOCK // max(1, cost * length)) if len(index) == 1 and not gathers else 1
    seen = seen.expand(-1, length)[:, None]
    measures = []
    for first in range(0, batch, slots):
        own = slice(first, first + slots)
        shared = slice(None) if len(index) == 1 else own
        blocks = []
        for at in range(0, length, rows):
            block = slice(at, at + rows)
            end = min(max(1, at + rows + k.shape[2] - length), k.shape[2]) if causal else k.shape[2]
            drawn = index[shared, block].clamp(max=end - 1) if causal else index[shared, block]
            scores = _sampled(q[own, :, block], k[own, :, :end], drawn, gathers)
            counted = None if active is None else active[shared, None, block]
            blocks.append(_peak(scores, counted, seen[shared, :, block]))
        measures.append(torch.cat(blocks, -1))
    return torch.cat(measures)


def _sampled(q: Tensor, k: Tensor, index: Tensor, gathers: bool) -> Tensor:
    """Scores of queries `[b, H, l, D]` with their sampled keys `index [b or 1, l, U]`."""
    if gathers:
        return torch.einsum("bhld,bhlud->bhlu", q, k[:, :, index[0]])
    scores = q @ k.mT
    return scores.gather(-1, index[:, None].expand(*scores.shape[:3], -1))


def _peak(scores: Tensor, counted: Tensor | None, seen: Tensor) -> Tensor:
    if counted is None:
        return scores.amax(-1) - scores.sum(-1) / seen
    best = scores.masked_fill(~counted, -torch.inf).amax(-1)
    return best - scores.masked_fill(~counted, 0).sum(-1) / seen.clamp(min=1)


def leading(measure: Tensor, best: Tensor, block: int = 32) -> tuple[Tensor, Tensor]:
    """Say which queries are among those of largest measure up to themselves.

    Ties go to the earlier query. Goes through the queries in blocks and carries the best
    measures so far.

    Args:
        measure: `[B, H, L]`.
        best: Largest measures of earlier queries, `[B, H, n]`; n lead at a time.
        block: Queries ranked at a time.

    Returns:
        bool `[B, H, L]`, and the largest measures after the last query `[B, H, n]`.
    """
    most = best.shape[-1]
    earlier = torch.ones(block, block, dtype=torch.bool, device=measure.device).tril(-1)
    leads = []
    for own in measure.split(block, -1):
        size = own.shape[-1]
        rivals = torch.cat([best, own], -1)
        ahead = rivals[..., None, :] >= own[..., None]
        ahead[..., most:] &= earlier[:size, :size]
        leads.append(ahead.sum(-1) < most)
        best = rivals.topk(most).values
    return torch.cat(leads, -1), best

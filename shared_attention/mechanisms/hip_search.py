"""HiP's tree search for the key blocks that each block of queries attends to."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Search(NamedTuple):
    """How many blocks are kept, and why."""

    block: int
    """Positions per block of queries and of keys."""
    top_k: int
    """Blocks found by the search."""
    sinks: int
    """First blocks that are always seen."""
    window: int
    """Blocks on each side of the own one that are always seen."""

    def check(self) -> Search:
        """Return itself.

        Raises:
            ValueError: A number is out of range.
        """
        for name, least in (("block", 1), ("top_k", 1), ("sinks", 0), ("window", 0)):
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"hip: option {name} got {value}, expected at least {least}")
        return self


@torch.no_grad()
def choose_blocks(
    q: Tensor, k: Tensor, real: Tensor, causal: bool, search: Search
) -> tuple[Tensor, Tensor]:
    """Return the key blocks of each query block, `[B, H, M, n]`, and which of them count.

    Args:
        q: `[B, H, L, D]`, L a multiple of the block.
        k: `[B, H, L, D]`, the real keys first.
        real: How many keys are real `[B]`.
        causal: Whether blocks after the own one are hidden.
        search: Sizes of the search.
    """
    own = torch.arange(q.shape[2] // search.block, device=q.device)[None]
    if causal:
        leaders = q[:, :, :: search.block].to(torch.promote_types(q.dtype, torch.float32))
    else:
        leaders = block_means(q, own, real, search.block)
    filled = -(-real // search.block)
    means = block_means(k, own, real, search.block)
    return search_blocks(leaders, means, own, filled, causal, search)


def block_means(x: Tensor, own: Tensor, real: Tensor, block: int) -> Tensor:
    """Average the real positions of blocks numbered `own [B or 1, M]` of `x [B, H, M * b, D]`."""
    x = x.unflatten(2, (-1, block)).to(torch.promote_types(x.dtype, torch.float32))
    inside = own[..., None] * block + torch.arange(block, device=x.device) < real[:, None, None]
    share = inside / inside.sum(-1, keepdim=True).clamp(min=1)
    return (x * share[:, None, ..., None].to(x.dtype)).sum(3)


def search_blocks(
    leaders: Tensor, means: Tensor, own: Tensor, filled: Tensor, causal: bool, search: Search
) -> tuple[Tensor, Tensor]:
    """As `choose_blocks`, for query blocks anywhere in the sequence.

    Args:
        leaders: The query that chooses for each of M blocks `[B, H, M, D]`.
        means: Mean keys of all N blocks `[B, H, N, D]`.
        own: Numbers of the query blocks `[B or 1, M]`.
        filled: Number of key blocks with real keys `[B]`.
        causal: Whether blocks after the own one are hidden.
        search: Sizes of the search.
    """
    _, top_k, sinks, window = search
    (batch, heads, asking, _), blocks, device = leaders.shape, means.shape[2], means.device
    own, filled = own[:, None, :, None], filled[:, None, None, None]
    before = (own - window - sinks).clamp(min=0)
    resume = torch.maximum(own + window + 1, torch.full_like(own, sinks))
    after = torch.zeros_like(filled) if causal else (filled - resume).clamp(min=0)

    def at(candidate: Tensor) -> Tensor:
        """The block that a candidate is: those before the window, then those after it."""
        later = candidate - before + resume
        return torch.where(candidate < before, candidate + sinks, later).clamp(0, blocks - 1)

    count = before + after
    part = torch.arange(top_k, device=device)
    low, high = count * part // top_k, count * (part + 1) // top_k
    low, high = (x.expand(batch, heads, asking, top_k) for x in (low, high))
    for _ in range(math.ceil(math.log2(max(1, -(-blocks // top_k))))):
        middle = (low + high + 1) // 2
        low, high = torch.cat([low, middle], -1), torch.cat([middle, high], -1)
        standing = at((low + high) // 2)
        keys = torch.take_along_dim(means, standing.flatten(2)[..., None], dim=2)
        scores = (keys.unflatten(2, (asking, -1)) @ leaders[..., None]).squeeze(-1)
        best = scores.masked_fill(low >= high, -torch.inf).topk(top_k, dim=-1).indices
        low, high = low.gather(-1, best), high.gather(-1, best)

    near = own + torch.arange(-window, 1 if causal else window + 1, device=device)
    first = torch.arange(sinks, device=device).expand(*own.shape[:3], -1)
    apart = first < (own - window).clamp(min=0)
    if not causal:
        apart = apart | (first > own + window)
    fixed = torch.cat([first, near], dim=-1)
    counts = torch.cat([apart, near >= 0], dim=-1) & (fixed < filled)
    fixed = fixed.clamp(0, blocks - 1).expand(batch, heads, -1, -1)
    counts = counts.expand(batch, heads, -1, -1)
    return torch.cat([at(low), fixed], -1), torch.cat([low < high, counts], -1)

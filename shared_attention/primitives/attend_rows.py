"""Softmax attention of chosen rows only: what is not chosen is not computed."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from shared_attention.masks import Mask, split
from shared_attention.primitives.fused import fused_attention
from shared_attention.primitives.heads import match_heads
from shared_attention.primitives.hidden import blank_masked

CAUSAL_ROWS = 128
"""Rows that share one end of keys under a causal mask."""
BUCKETS = 4
WASTE = 1.3
"""Computed rows per chosen row above which heads are put in buckets of like counts."""


def attend_rows(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    chosen: Tensor,
    *,
    mask: Mask | None = None,
    bias: Tensor | None = None,
    gain: Tensor | None = None,
) -> Tensor:
    """Attend with softmax(q kᵀ / √D + bias) v in the chosen rows; the others are zero.

    The chosen rows of each sample and head are laid side by side, the last one repeated up to
    the largest count; where counts differ much, heads are first put in buckets of like counts.
    Sizes depend on the data, so graph compilers cannot take it.

    Args:
        q: `[B, H, L, Dk]`.
        k: `[B, Hk, S, Dk]`, Hk dividing H.
        v: `[B, Hv, S, Dv]`, Hv dividing H.
        chosen: bool `[B, H, L]`.
        mask: Any mask.
        bias: Additive, broadcastable to `[B, H, L, S]`; gradients flow to it.
        gain: `[B, H, L]`, what chosen rows of the output are multiplied by.

    Returns:
        `[B, H, L, Dv]`, in memory `[B, L, H, Dv]`.
    """
    batch, heads, length, _ = q.shape
    k, v = blank_masked(k, v, mask, length)
    flat = chosen.flatten(0, 1)
    counts = flat.sum(1)
    pair, position = flat.nonzero(as_tuple=True)
    start = counts.cumsum(0) - counts
    place = ((pair // heads) * length + position) * heads + pair % heads
    queries = q.transpose(1, 2).reshape(batch * length * heads, -1)
    outs, places = [], []
    for pairs, most in _buckets(counts):
        own = counts[pairs, None]
        step = torch.arange(most, device=q.device)
        row = start[pairs, None] + torch.minimum(step, own - 1)
        grid = (batch, heads) if len(pairs) == len(counts) else (len(pairs), 1)
        where = _Where(*(x.view(*grid, -1) for x in (pairs // heads, pairs % heads, position[row])))
        laid = queries.index_select(0, place[row].flatten()).view(*grid, most, -1)
        keys, values = (_of_pairs(x, pairs, heads, grid) for x in (k, v))
        out = _attend(laid, keys, values, where, length, mask, bias).reshape(-1, v.shape[-1])
        real = (step < own).flatten().nonzero()[:, 0]
        outs.append(out.index_select(0, real))
        places.append(place[row].flatten().index_select(0, real))
    if not outs:
        return q.new_zeros(batch, heads, length, v.shape[-1])
    found, place = torch.cat(outs), torch.cat(places)
    if gain is not None:
        found = found * gain.transpose(1, 2).reshape(-1, 1).index_select(0, place).to(found.dtype)
    out = found.new_zeros(len(queries), v.shape[-1]).index_copy(0, place, found)
    return out.view(batch, length, heads, -1).transpose(1, 2)


class _Where(NamedTuple):
    """Where gathered rows come from."""

    sample: Tensor
    """`[N, M, 1]`."""
    head: Tensor
    """`[N, M, 1]`."""
    position: Tensor
    """`[N, M, rows]`."""

    def number(self, x: Tensor, part: slice) -> Tensor:
        """Number the rows among all of `[B or 1, H or 1, L or 1, S]`, int64 `[N, M, rows]`."""
        index = torch.zeros_like(self.position[..., part])
        origin = (self.sample, self.head, self.position[..., part])
        for size, at in zip(x.shape[:3], origin, strict=True):
            index = index * size + (at if size > 1 else 0)
        return index

    def rows(self, x: Tensor, part: slice) -> Tensor:
        """Read the rows `[N, M, rows, S]` of `[B or 1, H or 1, L or 1, S]`."""
        index = self.number(x, part)
        return x.reshape(-1, x.shape[-1]).index_select(0, index.flatten()).view(*index.shape, -1)


def _buckets(counts: Tensor) -> list[tuple[Tensor, int]]:
    """Pairs of sample and head that are computed together, and the rows of the fullest.

    Pairs without a chosen row are in none.
    """
    every = torch.arange(len(counts), device=counts.device)
    used = every if bool(counts.all()) else counts.nonzero()[:, 0]
    if not len(used):
        return []
    most = int(counts.max())
    if len(used) * most <= WASTE * int(counts.sum()):
        return [(used, most)]
    by_count = used[counts[used].argsort()]
    parts = [part for part in by_count.tensor_split(BUCKETS) if len(part)]
    return [(part, int(counts[part[-1]])) for part in parts]


def _of_pairs(x: Tensor, pairs: Tensor, heads: int, grid: tuple[int, int]) -> Tensor:
    """Read the keys or values of pairs, `[N, M, S, D]`."""
    if grid[1] == heads and grid[0] * heads == len(pairs) and grid[0] == x.shape[0]:
        return x
    return x[pairs // heads, pairs % heads // (heads // x.shape[1])][:, None]


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    where: _Where,
    length: int,
    mask: Mask | None,
    bias: Tensor | None,
) -> Tensor:
    count, step, ends = k.shape[2], q.shape[2], [k.shape[2]]
    if k.shape[1] != v.shape[1]:
        k, v = match_heads(k, v)
    if split(mask).causal:
        step = CAUSAL_ROWS
        last = where.position.flatten(0, 1).amax(0) + (count - length + 1)
        ends = torch.stack([x.max() for x in last.split(step)]).clamp(0, count).tolist()
    dense = None if mask is None else mask.to_dense(length, count, q.device)
    outs = []
    for i, end in enumerate(ends):
        part = slice(i * step, (i + 1) * step)
        own = q[:, :, part], k[:, :, :end], v[:, :, :end]
        allowed = None if dense is None else where.rows(dense[..., :end], part)
        rows = None
        if bias is not None:
            full = bias[(None,) * (4 - bias.dim())].expand(-1, -1, -1, count)[..., :end]
            if allowed is None:
                allowed, rows = full.flatten(0, 2).to(q.dtype), where.number(full, part)
            else:
                added = where.rows(full, part).to(q.dtype)
                allowed = added.masked_fill(~allowed, -math.inf)
        outs.append(fused_attention(*own, mask=allowed, rows=rows))
    return torch.cat(outs, dim=2)

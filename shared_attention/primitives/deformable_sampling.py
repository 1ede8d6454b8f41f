"""Weighted sums of values read between grid positions, without building what is read."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from shared_attention.primitives.weighted_bags import weighted_bags

Shapes = Sequence[tuple[int, int]]
"""Height and width of each level of a feature pyramid."""
READ_AT_ONCE = 2**18
"""Readings whose places are in memory at a time for each core, without gradients."""


def deformable_sample(
    value: Tensor,
    shapes: Shapes,
    locations: Tensor,
    weights: Tensor,
    depth: Tensor | None = None,
) -> Tensor:
    """Return Σ_lp weights_lp · value_l(locations_lp), read by (depth-weighted) bilinear sampling.

    A bilinear reading is a weighted sum of four rows, so every output is one weighted bag of
    4 · L · P rows of `value`, summed without storing them, forward and backward.
    With depth, a reading of value ⊗ depth at (x, y, z) is the same sum with each row's weight
    multiplied by its depth distribution read at z: the product, D times the memory, never exists.

    Coordinates are those of `grid_sample` with `align_corners=False` and zeros outside.

    Args:
        value: `[B, S, H, d]`, the levels one after the other, S = Σ height · width.
        shapes: Height and width of the L levels.
        locations: `[B, Q, H, L, P, 2]` as (x, y) from 0 to 1, or (x, y, z) with depth.
        weights: `[B, Q, H, L, P]`.
        depth: `[B, S, D]`, for each position how its value spreads over depth.

    Returns:
        `[B, Q, H * d]`.
    """
    queries, width = locations.shape[1], value.shape[-1]
    table = value.reshape(-1, width).to(weights.dtype)
    levels = _Levels.of(value, shapes, locations)
    if torch.compiler.is_compiling() or (
        torch.is_grad_enabled()
        and any(x.requires_grad for x in (value, locations, weights, depth) if x is not None)
    ):
        return _sample(table, levels, locations, weights, depth, value.shape[1])
    each = 4 * max(1, locations[:, :1, ..., 0].numel())
    step = max(1, READ_AT_ONCE * torch.get_num_threads() // each)
    parts = zip(locations.split(step, 1), weights.split(step, 1), strict=True)
    outs = [_sample(table, levels, *part, depth, value.shape[1]) for part in parts]
    return torch.cat(outs, 1) if queries else table.new_zeros(len(value), 0, value.shape[2] * width)


class _Levels(NamedTuple):
    """Of each of the L · P points: what belongs to its level, `[L * P]`."""

    wide: Tensor
    high: Tensor
    start: Tensor
    """The first row of the level."""

    @staticmethod
    def of(value: Tensor, shapes: Shapes, locations: Tensor) -> _Levels:
        points = locations.shape[4]
        starts = itertools.accumulate((h * w for h, w in shapes[:-1]), initial=0)
        every = [(w, h, start) for (h, w), start in zip(shapes, starts, strict=True)]
        wide, high, start = torch.tensor(every, device=value.device).repeat_interleave(points, 0).T
        return _Levels(wide, high, start)


def _sample(
    table: Tensor,
    levels: _Levels,
    locations: Tensor,
    weights: Tensor,
    depth: Tensor | None,
    total: int,
) -> Tensor:
    batch, queries, heads = locations.shape[:3]
    x, y, *z = locations.flatten(3, 4).flatten(0, 2).unbind(-1)
    head = torch.arange(heads, device=table.device)
    first = torch.arange(batch, device=table.device)[:, None, None] * total
    first = first.expand(batch, queries, heads).reshape(-1, 1) + levels.start
    columns, column_shares = _neighbours(x, levels.wide)
    rows, row_shares = _neighbours(y, levels.high)
    places, shares = [], []
    weights = weights.flatten(3).flatten(0, 2)
    for row, row_share in zip(rows, row_shares, strict=True):
        begin, share = torch.addcmul(first, row, levels.wide), row_share * weights
        for column, column_share in zip(columns, column_shares, strict=True):
            places.append(begin + column)
            shares.append(share * column_share)
    if depth is not None:
        shares = [
            share * read for share, read in zip(shares, _depth_at(depth, places, z[0]), strict=True)
        ]
    index = torch.cat(places, 1).view(-1, heads, len(places) * x.shape[1])
    index = index.mul_(heads).add_(head[:, None]).flatten(0, 1)
    out = weighted_bags(table, index, torch.cat(shares, 1))
    return out.view(batch, queries, -1)


def _neighbours(location: Tensor, size: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The two positions on either side, and the share of each, zero outside."""
    place = location * size - 0.5
    below = place.detach().floor()
    part = place - below
    near, shares = [], []
    for position, share in ((below, 1 - part), (below + 1, part)):
        inside = position.clamp(min=0).minimum(size - 1)
        near.append(inside.long())
        shares.append(share.masked_fill(inside != position, 0))
    return near, shares


def _depth_at(depth: Tensor, places: list[Tensor], z: Tensor) -> Iterator[Tensor]:
    """Read the depth distributions of positions in all samples at `z`."""
    count = torch.tensor(depth.shape[2], device=depth.device)
    (low, high), (low_share, high_share) = _neighbours(z, count)
    flat = depth.flatten()
    for place in places:
        begin = place * depth.shape[2]
        one, other = (
            flat.index_select(0, (begin + near).flatten()).view(z.shape) for near in (low, high)
        )
        yield torch.addcmul(one * low_share, other, high_share)

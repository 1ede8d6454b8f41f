"""Weighted sums of values read between grid positions, without building what is read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from shared_attention.primitives.weighted_bags import weighted_bags

Shapes = Sequence[tuple[int, int]]
"""Height and width of each level of a feature pyramid."""


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
    batch, total, heads, width = value.shape
    queries = locations.shape[1]
    rows, shares, start = [], [], 0
    for level, (high, wide) in enumerate(shapes):
        at, share = _corners(locations[:, :, :, level], (wide, high))
        at = at + start
        if depth is not None:
            share = share * _depth_at(depth, at, locations[:, :, :, level, :, 2])
        rows.append(at)
        shares.append(share * weights[:, :, :, level, :, None])
        start += high * wide
    sample = torch.arange(batch, device=value.device)[:, None, None, None]
    head = torch.arange(heads, device=value.device)[:, None]
    index = torch.cat(rows, 3).flatten(3)
    index = ((sample * total + index) * heads + head).flatten(0, 2)
    share = torch.cat(shares, 3).flatten(3).flatten(0, 2)
    table = value.reshape(-1, width).to(share.dtype)
    out = weighted_bags(table, index, share)
    return out.view(batch, queries, heads * width)


def _corners(locations: Tensor, sizes: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Positions `[B, Q, H, P, 4]` in the flattened level and their bilinear shares."""
    at = torch.zeros((), dtype=torch.int64, device=locations.device)
    share = torch.ones((), dtype=locations.dtype, device=locations.device)
    for axis in (1, 0):
        near, part = _neighbours(locations[..., axis], sizes[axis])
        if axis == 1:
            at, share = near[..., :, None] * sizes[0], part[..., :, None]
        else:
            at, share = at + near[..., None, :], share * part[..., None, :]
    return at.flatten(-2), share.flatten(-2)


def _neighbours(location: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The two positions on either side `[..., 2]`, and the share of each, zero outside."""
    place = location * size - 0.5
    below = place.detach().floor()
    part = place - below
    near = torch.stack([below, below + 1], -1)
    inside = (near >= 0) & (near < size)
    share = torch.stack([1 - part, part], -1).masked_fill(~inside, 0)
    return near.clamp(0, size - 1).long(), share


def _depth_at(depth: Tensor, at: Tensor, z: Tensor) -> Tensor:
    """Read the depth distributions of positions `at [B, Q, H, P, 4]` at `z [B, Q, H, P]`."""
    count = depth.shape[2]
    near, part = _neighbours(z, count)
    index = at[..., None] * count + near[..., None, :]
    read = depth.flatten(1).gather(1, index.flatten(1)).view(index.shape)
    return (read * part[..., None, :]).sum(-1)

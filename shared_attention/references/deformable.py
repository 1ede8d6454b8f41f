"""Deformable attention by sampling whole feature maps, lifted by depth where there is depth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def reference_deformable(
    x: Tensor,
    parameters: Mapping[str, Tensor],
    *,
    reference_points: Tensor,
    value: Tensor,
    spatial_shapes: tuple[tuple[int, int], ...],
    num_heads: int,
    levels: int,
    points: int,
    depth: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """Build each level's map, value ⊗ depth in three dimensions, and read it with grid_sample.

    Args:
        x: Queries `[B, Q, C]`.
        parameters: Of the module, by name.
        reference_points: `[B, Q, levels, dims]`.
        value: `[B, S, C]`.
        spatial_shapes: Height and width of each level.
        num_heads: Heads.
        levels: Levels.
        points: Points.
        depth: `[B, S, D]` or None.
        **options: Not needed.

    Returns:
        float64 `[B, Q, C]`.
    """

    def linear(name: str, given: Tensor) -> Tensor:
        return F.linear(given.double(), parameters[f"{name}.weight"], parameters[f"{name}.bias"])

    batch, queries, width = x.shape
    dims = reference_points.shape[-1]
    offsets = linear("sampling_offsets", x).view(batch, queries, num_heads, levels, points, dims)
    weights = linear("attention_weights", x).view(batch, queries, num_heads, levels * points)
    weights = weights.softmax(-1).view(batch, queries, num_heads, levels, points)
    maps = linear("value_proj", value)
    out = []
    for head in range(num_heads):
        channels = slice(head * width // num_heads, (head + 1) * width // num_heads)
        total, start = torch.zeros(()), 0
        for level, (high, wide) in enumerate(spatial_shapes):
            own = slice(start, start + high * wide)
            image = maps[:, own, channels].transpose(1, 2).unflatten(2, (high, wide))
            size = [wide, high]
            if depth is not None:
                lifted = depth[:, own].double().transpose(1, 2).unflatten(2, (high, wide))
                image = image[:, :, None] * lifted[:, None]
                size = [wide, high, depth.shape[2]]
            place = reference_points[:, :, None, level].double() + offsets[
                :, :, head, level
            ] / x.new_tensor(size, dtype=torch.float64)
            grid = 2 * place - 1
            grid = grid if depth is None else grid[:, None]
            read = F.grid_sample(image, grid, align_corners=False).reshape(
                batch, -1, queries, points
            )
            total = total + (read * weights[:, None, :, head, level]).sum(-1)
            start += high * wide
        out.append(total)
    return linear("output_proj", torch.cat(out, 1).transpose(1, 2))

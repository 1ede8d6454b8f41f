"""Where tokens of a grid are, as vectors that attention can compare."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

WAVES = 8
SHORTEST = 8.0
"""Voxels of the shortest wave; each further one is twice as long, the last 1024."""


class GridPositions(nn.Module):
    """A learned linear map of sines and cosines of the voxel coordinates of each token.

    Grids of several strides over one image have one coordinate system, its voxels, so tokens of
    one can be compared with those of another. Any grid has positions, trained on or not.

    Args:
        spatial_dims: 2 or 3.
        channels: width of the tokens.
    """

    waves: Tensor

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.project = nn.Linear(2 * WAVES * spatial_dims, channels, bias=False)
        waves = 2 * math.pi / (SHORTEST * 2.0 ** torch.arange(WAVES))
        self.register_buffer("waves", waves, persistent=False)

    def forward(self, grid: Sequence[int], stride: Sequence[float]) -> Tensor:
        """Return `[1, tokens, channels]` in the order of the grid.

        Args:
            grid: tokens along each axis.
            stride: voxels between them along each axis.
        """
        parts = []
        for axis, (count, step) in enumerate(zip(grid, stride, strict=True)):
            place = (torch.arange(count, device=self.waves.device) + 0.5) * step
            angle = place[:, None] * self.waves
            shape = [count if other == axis else 1 for other in range(len(grid))]
            wave = torch.cat([angle.sin(), angle.cos()], -1).view(*shape, 2 * WAVES)
            parts.append(wave.expand(*grid, 2 * WAVES))
        return self.project(torch.cat(parts, -1)).view(1, math.prod(grid), -1)

"""Blocks of a two-dimensional grid, and the neighbourhoods around them, without unfolding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def blocks(x: Tensor, size: int) -> Tensor:
    """Cut `[B, H, W, C]` into `[B, blocks, size * size, C]`, zeros where the grid ends."""
    _, height, width, _ = x.shape
    x = F.pad(x, (0, 0, 0, -width % size, 0, -height % size))
    x = x.unflatten(2, (-1, size)).unflatten(1, (-1, size)).transpose(2, 3)
    return x.flatten(3, 4).flatten(1, 2)


def join_blocks(x: Tensor, size: int, grid: tuple[int, int]) -> Tensor:
    """Undo `blocks`: `[B, blocks, size * size, C]` to `[B, H, W, C]`."""
    height, width = grid
    x = x.unflatten(1, (-(-height // size), -1)).unflatten(3, (size, size)).transpose(2, 3)
    return x.flatten(3, 4).flatten(1, 2)[:, :height, :width]


def around_blocks(x: Tensor, size: int, reach: int) -> Tensor:
    """Return each block with the positions up to `reach` around it, zeros outside the grid.

    A block's surroundings are the start of the next block, so two concatenations make them:
    `((size + 2 reach) / size)²` times the memory of `x`, against `(2 reach + 1)²` of an unfold.

    Args:
        x: `[B, H, W, C]`.
        size: Side of a block, at least `2 * reach`.
        reach: Positions on each side.

    Returns:
        `[B, blocks, (size + 2 * reach)², C]`.
    """
    _, height, width, _ = x.shape
    right, below = (size - reach + (-n % size) for n in (width, height))
    x = F.pad(x, (0, 0, reach, right, reach, below))
    for dim in (1, 3):
        cut = x.unflatten(dim, (-1, size))
        count = cut.shape[dim] - 1
        following = cut.narrow(dim, 1, count).narrow(dim + 1, 0, 2 * reach)
        x = torch.cat([cut.narrow(dim, 0, count), following], dim + 1)
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)

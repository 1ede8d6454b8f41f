"""Grids that a model with strides can halve without a remainder."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor


def pad_to(
    image: Tensor, multiple: int | Sequence[int], *, two: bool = False
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Pad the end of every axis of `image` `[B, C, *grid]` with zeros up to a multiple.

    Args:
        image: `[B, C, *grid]`.
        multiple: of every axis, or one for each.
        two: whether an image of one multiple along every axis gets a second one along the last,
            for networks whose norms refuse a grid of one position.

    Returns:
        The padded image, and a function that cuts a map `[B, K, *padded grid]` to the grid again.
        Both are slices and pads of fixed sizes, which export as they are; an image that fits is
        returned itself.
    """
    grid = image.shape[2:]
    each = [multiple] * len(grid) if isinstance(multiple, int) else list(multiple)
    missing = [-size % step for size, step in zip(grid, each, strict=True)]
    if two and all(size <= step for size, step in zip(grid, each, strict=True)):
        missing[-1] += each[-1]
    if not any(missing):
        return image, lambda output: output
    pads = [side for extra in reversed(missing) for side in (0, extra)]

    def crop(output: Tensor) -> Tensor:
        for axis, size in enumerate(grid):
            output = output.narrow(axis + 2, 0, size)
        return output

    return F.pad(image, pads), crop

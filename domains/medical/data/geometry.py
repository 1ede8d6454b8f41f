"""Whether the voxels of two files are in the same places, and putting them there."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from domains.medical.data.case import Grid
from domains.medical.data.findings import BadFileError

TOLERANCE = 0.05
"""Voxels by which two grids may differ anywhere: far above what float32 headers lose."""


def distance(one: Grid, other: Grid) -> float:
    """Return how far apart, in mm, voxels with the same index of two grids lie at most."""
    if one.shape != other.shape:
        return float("inf")
    ends = itertools.product(*((0.0, n - 1.0) for n in one.shape))
    corners = np.array([(*corner, 1.0) for corner in ends])
    apart = corners @ (one.affine - other.affine).T
    return float(np.linalg.norm(apart[:, :-1], axis=1).max())


def same(one: Grid, other: Grid) -> bool:
    """Say whether the voxels of two grids are in the same places, within `TOLERANCE`."""
    return distance(one, other) <= TOLERANCE * min(*one.spacing, *other.spacing)


def align(array: np.ndarray, grid: Grid, source: Path, target: Grid, beside: Path) -> np.ndarray:
    """Return `array [*grid]` in the order of the axes of `target`.

    Axes that are stored in another order or direction at the same places are turned, which loses
    nothing; anything else is refused, as resampling is not for a reader to decide.

    Args:
        array: `[*grid.shape]`, or `[C, *grid.shape]`.
        grid: where its voxels are.
        source: its file, for the message.
        target: where they are to be.
        beside: the file of `target`, for the message.

    Raises:
        BadFileError: the two grids hold different places.
    """
    if same(grid, target):
        return array
    if len(grid.shape) == len(target.shape) == 3:
        from nibabel.orientations import (
            apply_orientation,
            inv_ornt_aff,
            io_orientation,
            ornt_transform,
        )

        turn = ornt_transform(io_orientation(grid.affine), io_orientation(target.affine))
        shape = [0, 0, 0]
        for axis, (to, _) in enumerate(turn):
            shape[int(to)] = grid.shape[axis]
        turned = Grid(tuple(shape), grid.affine @ inv_ornt_aff(turn, grid.shape))
        if same(turned, target):
            moved = np.moveaxis(array, 0, -1) if array.ndim == 4 else array
            moved = apply_orientation(moved, turn)
            return np.moveaxis(moved, -1, 0) if array.ndim == 4 else moved
    raise BadFileError(source, difference(grid, target, beside), _remedy(grid, target))


def difference(grid: Grid, target: Grid, beside: Path) -> str:
    """Return in words how two grids differ."""
    if grid.shape != target.shape:
        return f"has {_times(grid.shape)} voxels, {beside.name} has {_times(target.shape)}"
    what = f"its voxels lie up to {distance(grid, target):.3g} mm from those of {beside.name}"
    if not np.allclose(grid.spacing, target.spacing, rtol=1e-3):
        what += f" (spacing {_times(grid.spacing)} against {_times(target.spacing)} mm)"
    return what


def usable(affine: np.ndarray) -> bool:
    """Say whether an affine places voxels at all: finite, and no two axes fall together."""
    n = len(affine) - 1
    if not np.isfinite(affine).all():
        return False
    spacing = np.linalg.norm(affine[:n, :n], axis=0)
    return bool((spacing > 0).all() and abs(np.linalg.det(affine[:n, :n] / spacing)) > 1e-3)


def _remedy(grid: Grid, target: Grid) -> str:
    if grid.shape != target.shape:
        return "resample one onto the grid of the other"
    return "resample one onto the other, or copy the header if only that is wrong"


def _times(numbers: tuple[float, ...]) -> str:
    return " x ".join(f"{number:g}" for number in numbers)

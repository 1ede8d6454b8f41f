"""Slices through a scan as a radiologist looks at them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from nibabel.orientations import apply_orientation, io_orientation

from domains.medical.data.case import Grid

_NAMES = ("sagittal", "coronal", "axial")
_EDGES = (("A", "P", "S", "I"), ("R", "L", "S", "I"), ("R", "L", "A", "P"))
"""What is left, right, at the top and at the bottom: the patient faces the reader or looks left."""


@dataclass(frozen=True)
class Plane:
    """One slice: what to take of an array, and how to show it.

    Args:
        name: axial, coronal or sagittal; empty for a 2-D image.
        index: of the slice along its axis of the canonical array.
        aspect: height of a pixel over its width.
        edges: letters at the left, right, top and bottom; empty for a 2-D image.
        orientation: nibabel's, from the array to axes closest to right, anterior, superior.
    """

    name: str
    index: int
    aspect: float
    edges: tuple[str, ...]
    orientation: np.ndarray | None

    def take(self, array: np.ndarray) -> np.ndarray:
        """Return the slice of `[*grid]` as rows from the top and columns from the left."""
        if self.orientation is None:
            return array
        turned = apply_orientation(array, self.orientation)
        return np.take(turned, self.index, axis=_NAMES.index(self.name)).T[::-1, ::-1]


def planes(mask: np.ndarray, grid: Grid) -> tuple[Plane, ...]:
    """Return the axial, coronal and sagittal slice with the most foreground of `mask` `[*grid]`.

    The middle ones where there is none. A 2-D image is its own only plane, with rows downwards.
    Right is on the left, as radiologists have it. Oblique scans are shown along their own axes,
    named by the nearest direction.
    """
    if mask.ndim == 2:
        rows, columns = grid.spacing
        return (Plane("", 0, rows / columns, (), None),)
    orientation = io_orientation(grid.affine)
    turned = apply_orientation(mask > 0, orientation)
    source = np.argsort(orientation[:, 0])
    spacing = [grid.spacing[int(axis)] for axis in source]
    found = []
    for axis in (2, 1, 0):
        across, up = (other for other in range(3) if other != axis)
        area = turned.sum(axis=(across, up))
        index = int(area.argmax()) if area.any() else turned.shape[axis] // 2
        aspect = spacing[up] / spacing[across]
        found.append(Plane(_NAMES[axis], index, aspect, _EDGES[axis], orientation))
    return tuple(found)

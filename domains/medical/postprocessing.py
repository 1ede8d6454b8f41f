"""Largest components and filled holes, with no class ever taking a voxel from another.

The order is: first every class loses all but its largest component to the background, then holes
are filled. A hole is background that is enclosed on all sides; it goes to the class around it,
and stays background where more than one class touches it. Neither step reads what it has changed
itself, so the numbering of the classes does not matter.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def postprocess(mask: np.ndarray, *, keep_largest: bool, fill_holes: bool) -> np.ndarray:
    """Return a mask with the chosen steps applied, components first.

    Args:
        mask: class indices `[*grid]`, 0 the background; not changed.
        keep_largest: apply :func:`largest_components`.
        fill_holes: apply :func:`filled_holes`.
    """
    if keep_largest:
        mask = largest_components(mask)
    if fill_holes:
        mask = filled_holes(mask)
    return mask


def largest_components(mask: np.ndarray) -> np.ndarray:
    """Return `mask` with the largest component of each class only, the rest background.

    Voxels that share a face, an edge or a corner are connected. Of components of equal size the
    first one in the array stays.
    """
    kept = mask.copy()
    for index, box in _boxes(mask):
        inside = mask[box] == index
        components, count = ndimage.label(inside, np.ones((3,) * mask.ndim))
        if count > 1:
            largest = np.bincount(components.ravel())[1:].argmax() + 1
            kept[box][inside & (components != largest)] = 0
    return kept


def filled_holes(mask: np.ndarray) -> np.ndarray:
    """Return `mask` with background that one class encloses given to that class.

    Background is connected through faces only, the counterpart of classes that are connected
    through corners too. Background that reaches the border of the array is no hole.
    """
    filled = mask.copy()
    foreground = ndimage.find_objects((mask != 0).astype(np.uint8))
    if not foreground:
        return filled
    part = filled[foreground[0]]
    holes, count = ndimage.label(part == 0)
    around = np.zeros((count + 1, int(part.max()) + 1), dtype=bool)
    open_to_outside = np.zeros(count + 1, dtype=bool)
    for axis in range(part.ndim):
        here, there = _moved(holes, axis), _moved(part, axis)
        open_to_outside[here[0]] = open_to_outside[here[-1]] = True
        for hole, neighbour in ((here[:-1], there[1:]), (here[1:], there[:-1])):
            touching = (hole > 0) & (neighbour > 0)
            around[hole[touching], neighbour[touching]] = True
    owner = np.where(~open_to_outside & (around.sum(1) == 1), around.argmax(1), 0)
    owner[0] = 0
    part += owner.astype(part.dtype)[holes]
    return filled


def _boxes(mask: np.ndarray) -> list[tuple[int, tuple[slice, ...]]]:
    found = ndimage.find_objects(mask)
    return [(index, box) for index, box in enumerate(found, start=1) if box is not None]


def _moved(array: np.ndarray, axis: int) -> np.ndarray:
    return np.moveaxis(array, axis, 0)

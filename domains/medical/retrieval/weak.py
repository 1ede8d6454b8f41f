"""Masks without mask labels: where an attention map is high."""

from __future__ import annotations

import numpy as np

_BINS = 256


def otsu(values: np.ndarray) -> float:
    """Return the threshold that splits values into two groups of least variance (Otsu 1979).

    A constant map is its own threshold, so nothing of it is above.
    """
    low, high = float(values.min()), float(values.max())
    if high <= low:
        return high
    count, edges = np.histogram(values, bins=_BINS, range=(low, high))
    middle = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(count)[:-1]
    above = values.size - below
    mass = np.cumsum(count * middle)
    total = mass[-1]
    gap = mass[:-1] / np.maximum(below, 1) - (total - mass[:-1]) / np.maximum(above, 1)
    between = np.where((below > 0) & (above > 0), below * above * gap**2, -1.0)
    return float(edges[1:-1][np.argmax(between)])


def weak_masks(maps: np.ndarray) -> np.ndarray:
    """Return bool masks `[n, *size]` of maps: what is above each map's own Otsu threshold."""
    thresholds = np.array([otsu(one) for one in maps])
    return maps > thresholds.reshape(-1, *(1,) * (maps.ndim - 1))


def dice(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the Dice score of each mask, `[n]`; 1 where both are empty."""
    axes = tuple(range(1, found.ndim))
    both = (found & truth).sum(axis=axes)
    size = found.sum(axis=axes) + truth.sum(axis=axes)
    return np.where(size > 0, 2 * both / np.maximum(size, 1), 1.0)

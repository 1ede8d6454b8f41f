"""Surfaces of masks, and how far those of two masks lie apart in millimetres.

The surface of a mask is every voxel of it with a face neighbour outside it, as MONAI's default
and MedPy have it; voxels at the edge of the image belong to it. Every surface voxel counts once.
DeepMind's surface-distance instead puts surface elements between voxels and weights each by its
area in mm, which differs by less than a voxel in distance and, where spacing is anisotropic, in
how much each side of an object counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

_ROUNDING = 1e-6


@dataclass(frozen=True)
class SurfaceDistances:
    """Distances in mm between two surfaces, neither of them empty.

    Args:
        of_prediction: `[n]` from each surface voxel of the prediction to the nearest of the truth.
        of_truth: `[m]` from each surface voxel of the truth to the nearest of the prediction.
    """

    of_prediction: np.ndarray
    of_truth: np.ndarray

    @property
    def hd95(self) -> float:
        """The larger of the two 95th percentiles (linear interpolation), as MONAI."""
        return float(max(np.quantile(self.of_prediction, 0.95), np.quantile(self.of_truth, 0.95)))

    @property
    def assd(self) -> float:
        """Mean over the surface voxels of both together (`symmetric=True` in MONAI)."""
        total = self.of_prediction.sum() + self.of_truth.sum()
        return float(total / (len(self.of_prediction) + len(self.of_truth)))

    def nsd(self, tolerance: float) -> float:
        """Share of the surface voxels of both that lie within `tolerance` mm of the other.

        Nikolov et al. 2018, "Deep learning to achieve clinically applicable segmentation of head
        and neck anatomy for radiotherapy", equation of the surface Dice, with voxels for areas.
        """
        within = sum(
            np.count_nonzero(d <= tolerance + _ROUNDING)
            for d in (self.of_prediction, self.of_truth)
        )
        return float(within / (len(self.of_prediction) + len(self.of_truth)))


def surface_points(mask: np.ndarray) -> np.ndarray:
    """Return the indices of the surface voxels of a boolean mask, int64 `[n, dims]`."""
    inner = mask.copy()
    for axis in range(mask.ndim):
        along, source = np.moveaxis(inner, axis, 0), np.moveaxis(mask, axis, 0)
        along[:-1] &= source[1:]
        along[1:] &= source[:-1]
        along[0] = along[-1] = False
    return np.argwhere(mask & ~inner)


def surface_distances(
    prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float]
) -> SurfaceDistances:
    """Return the distances between the surfaces of two non-empty boolean masks of one shape.

    Args:
        prediction: bool `[*grid]`, best cropped to what it shares a box with.
        truth: bool `[*grid]`.
        spacing: mm between neighbours along each axis.
    """
    scale = np.asarray(spacing, dtype=np.float64)
    ours, theirs = surface_points(prediction), surface_points(truth)
    return SurfaceDistances(_nearest(ours, theirs, scale), _nearest(theirs, ours, scale))


def _nearest(points: np.ndarray, others: np.ndarray, scale: np.ndarray) -> np.ndarray:
    tree = cKDTree(others * scale, balanced_tree=False, compact_nodes=False)
    return tree.query(points * scale)[0]

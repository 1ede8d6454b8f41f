"""From a scan to what a model sees, and from what it says back to the scan's own grid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from nibabel.orientations import io_orientation

from domains.medical.data.case import Grid, Scan
from domains.medical.data.plan import Intensity, Plan
from domains.medical.data.resampling import (
    argmax_slabs,
    linear_slabs,
    resample_image,
    resample_label,
)
from shared_runtime.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

THICK = 3.0
"""Times the finest spacing from which an axis counts as thick slices."""


@dataclass(frozen=True)
class Placement:
    """Where a prepared array lies in its scan.

    Args:
        shape: the scan's own grid.
        axes: axis of the scan that lies behind each canonical axis.
        flips: whether each canonical axis runs against the scan's.
        crop: first and one past the last canonical voxel kept, for each axis.
        prepared: grid of the prepared array.
        spacing: millimetres between the prepared array's voxels, for each axis.
    """

    shape: tuple[int, ...]
    axes: tuple[int, ...]
    flips: tuple[bool, ...]
    crop: tuple[tuple[int, int], ...]
    prepared: tuple[int, ...]
    spacing: tuple[float, ...]

    @property
    def kept(self) -> tuple[int, ...]:
        """Canonical voxels inside the crop, along each axis."""
        return tuple(stop - start for start, stop in self.crop)

    def view(self, array: np.ndarray) -> np.ndarray:
        """View `[..., *shape]` in canonical axes, cropped; writing to it writes to `array`."""
        kept: tuple[Any, ...] = (..., *(slice(start, stop) for start, stop in self.crop))
        return canonical(array, self.axes, self.flips)[kept]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Placement:
        """Return the placement that `to_dict` gave `state` for."""
        plain = {name: tuple(value) for name, value in state.items()}
        return cls(**{**plain, "crop": tuple((a, b) for a, b in state["crop"])})


@dataclass(frozen=True)
class PreparedScan:
    """A scan as a model sees it: `array` `[C, *placement.prepared]` float32."""

    array: np.ndarray
    placement: Placement


def orientation(grid: Grid, source: object) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Return the scan's axis behind each canonical axis, and whether it runs the other way.

    Canonical axes are those closest to right, anterior, superior; axes of 2-D images stay.

    Raises:
        DataError: the affine gives an axis no direction.
    """
    if len(grid.shape) == 2:
        return (0, 1), (False, False)
    readable = np.isfinite(grid.affine).all()
    found = io_orientation(grid.affine) if readable else np.full((3, 2), np.nan)
    if not np.isfinite(found).all():
        raise DataError(f"{source}: the affine gives an axis no direction; correct its header")
    axes = np.argsort(found[:, 0])
    return tuple(int(a) for a in axes), tuple(bool(found[a, 1] < 0) for a in axes)


def canonical(array: np.ndarray, axes: Sequence[int], flips: Sequence[bool]) -> np.ndarray:
    """View `[..., *grid]` in canonical axes."""
    lead = array.ndim - len(axes)
    turned = array.transpose(*range(lead), *(lead + axis for axis in axes))
    return mirrored(turned, flips)


def mirrored(array: np.ndarray, flips: Sequence[bool]) -> np.ndarray:
    """View `[..., *grid]` the other way round along some axes."""
    steps: tuple[Any, ...] = (..., *(slice(None, None, -1 if flip else 1) for flip in flips))
    return array[steps]


def content_box(array: np.ndarray) -> tuple[tuple[int, int], ...]:
    """Return the box around what is not zero in `[C, *grid]`; everything where all is zero."""
    content = np.asarray(array.any(axis=0))
    box = []
    for axis in range(content.ndim):
        others = tuple(other for other in range(content.ndim) if other != axis)
        found = np.flatnonzero(np.any(content, axis=others))
        if not len(found):
            return tuple((0, size) for size in content.shape)
        box.append((int(found[0]), int(found[-1]) + 1))
    return tuple(box)


def preprocess(scan: Scan, plan: Plan) -> PreparedScan:
    """Turn a scan into canonical axes, crop, normalise and resample it as the plan says.

    The grid keeps its extent, so its spacing differs from the plan's by at most half a voxel over
    the whole axis. Axes of thick slices are interpolated linearly (nnU-Net repeats the nearest).

    Raises:
        DataError: the scan has other channels or axes than the plan, or voxels that are no numbers.
    """
    dims = len(scan.grid.shape)
    if dims != plan.spatial_dims or len(scan.array) != len(plan.channels):
        raise DataError(
            f"{scan.source}: has {len(scan.array)} channels of {dims} axes, but the plan takes "
            f"{len(plan.channels)} ({', '.join(plan.channels)}) of {plan.spatial_dims}; "
            "give the modalities that the model was planned for"
        )
    axes, flips = orientation(scan.grid, scan.source)
    turned = canonical(scan.array, axes, flips)
    whole = tuple((0, size) for size in turned.shape[1:])
    crop = content_box(turned) if plan.crop else whole
    kept = turned[(slice(None), *(slice(*ends) for ends in crop))]
    spacing = [scan.grid.spacing[axis] for axis in axes]
    shape = resampled_shape(kept.shape[1:], spacing, plan.spacing)
    array = np.array(kept, np.float32, order="C")
    inside = np.asarray(array.any(axis=0)) if plan.crop else None
    for channel, how, intensity in zip(array, plan.normalisation, plan.intensities, strict=True):
        _normalise(channel, how, intensity, inside, scan.source)
    thick = [value > THICK * min(spacing) for value in spacing]
    placement = Placement(
        shape=tuple(scan.grid.shape),
        axes=axes,
        flips=flips,
        crop=crop,
        prepared=shape,
        spacing=tuple(s * n / m for s, n, m in zip(spacing, kept.shape[1:], shape, strict=True)),
    )
    return PreparedScan(resample_image(array, shape, thick), placement)


def preprocess_label(label: np.ndarray, placement: Placement) -> np.ndarray:
    """Return class indices `[*scan grid]` as the prepared array has them, uint8 (or int16).

    Raises:
        DataError: the label's grid is not the scan's.
    """
    if label.shape != placement.shape:
        raise DataError(f"label has grid {label.shape}, its scan {placement.shape}")
    kind = np.uint8 if int(label.max(initial=0)) < 256 else np.int16
    small = np.array(placement.view(label), kind, order="C")
    return resample_label(small, placement.prepared)


def restore(probabilities: Tensor, placement: Placement, plan: Plan) -> np.ndarray:
    """Return the most probable class of every voxel of the scan's own grid.

    Interpolates linearly in slabs and compares afterwards, so that neighbouring classes touch
    without holes; what was cropped away is background.

    Args:
        probabilities: `[K, *placement.prepared]` on any device, of any floating type.
        placement: what `preprocess` gave for the scan.
        plan: the plan it was prepared by.

    Returns:
        `[*placement.shape]` uint8 class indices (int16 for more than 256 classes).
    """
    if tuple(probabilities.shape) != (plan.classes, *placement.prepared):
        raise ValueError(
            f"expected probabilities of shape {(plan.classes, *placement.prepared)}, "
            f"got {tuple(probabilities.shape)}"
        )
    out = np.zeros(placement.shape, np.uint8 if plan.classes <= 256 else np.int16)
    target = placement.view(out)
    for rows, classes in argmax_slabs(probabilities, placement.kept):
        target[rows] = classes
    return out


def restore_map(values: Tensor, placement: Placement, outside: float = 0.0) -> np.ndarray:
    """Return a map `[*placement.prepared]` on the scan's own grid, float32.

    Args:
        values: on any device.
        placement: what `preprocess` gave for the scan.
        outside: value where the scan was cropped away.
    """
    out = np.full(placement.shape, outside, np.float32)
    target = placement.view(out)
    for rows, slab in linear_slabs(values[None], placement.kept):
        target[rows] = slab[0]
    return out


def resampled_shape(
    shape: Sequence[int], spacing: Sequence[float], target: Sequence[float]
) -> tuple[int, ...]:
    """Return the voxels that cover the same extent at the target spacing, at least one each."""
    return tuple(
        max(1, math.floor(n * old / new + 0.5))
        for n, old, new in zip(shape, spacing, target, strict=True)
    )


def _normalise(
    channel: np.ndarray, how: str, intensity: Intensity, inside: np.ndarray | None, source: object
) -> None:
    """Normalise `[*grid]` in place; outside of `inside`, z-scores are 0 as the padding is."""
    low, high = float(channel.min()), float(channel.max())
    if not math.isfinite(low) or not math.isfinite(high):
        raise DataError(f"{source}: has voxels that are not finite numbers; replace them")
    if how == "ct":
        np.clip(channel, intensity.low, intensity.high, out=channel)
        _scale(channel, intensity.mean, intensity.std)
    elif how == "rescale":
        _scale(channel, low, high - low)
    else:
        mean, deviation = _moments(channel, inside)
        _scale(channel, mean, deviation)
        if inside is not None:
            channel *= inside


def _scale(channel: np.ndarray, offset: float, width: float) -> None:
    """Subtract and divide in place in float64, row by row; zeros where there is no width."""
    if not width > abs(offset) * 1e-7:
        channel[...] = 0
        return
    for row in channel:
        row[...] = (row.astype(np.float64) - offset) / width


def _moments(channel: np.ndarray, inside: np.ndarray | None) -> tuple[float, float]:
    """Return mean and standard deviation, accumulated in float64 row by row."""
    count, total = 0, 0.0
    rows = range(len(channel))
    for row in rows:
        values = channel[row] if inside is None else channel[row][inside[row]]
        count += values.size
        total += float(values.sum(dtype=np.float64))
    mean = total / max(count, 1)
    squares = 0.0
    for row in rows:
        values = channel[row] if inside is None else channel[row][inside[row]]
        squares += float(np.square(values - np.float64(mean), dtype=np.float64).sum())
    return mean, math.sqrt(squares / max(count, 1))

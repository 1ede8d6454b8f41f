"""What the scans of a training part are like: the facts that a plan is made from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from domains.medical.data.case import Case, DataSet, Scan
from domains.medical.data.plan import Intensity
from domains.medical.data.preprocessing import canonical, content_box, orientation
from shared_runtime.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

SAMPLES = 10_000
"""Intensities kept of each scan and channel."""
Read: TypeAlias = Callable[[Case], tuple[Scan, np.ndarray | None]]
"""Gives the scan of a case and its class indices on the scan's grid, None without a label."""


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """Facts of N cases; axes are canonical.

    Args:
        ids: of the cases.
        shapes: int64 `[N, axes]` voxels.
        boxes: int64 `[N, axes]` voxels of the box around what is not zero.
        spacings: float64 `[N, axes]` millimetres.
        ranges: float64 `[N, C, 2]` lowest and highest intensity.
        voxels: int64 `[N, K]` voxels of each class; zeros where a case has no label.
        intensities: of each channel, over a sample of the foreground of all cases (of all voxels
            where no case has a foreground).
        labels: name of each class.
        channels: name of each channel.
    """

    ids: tuple[str, ...]
    shapes: np.ndarray
    boxes: np.ndarray
    spacings: np.ndarray
    ranges: np.ndarray
    voxels: np.ndarray
    intensities: tuple[Intensity, ...]
    labels: tuple[str, ...]
    channels: tuple[str, ...]

    @property
    def kept(self) -> np.ndarray:
        """Share of each scan's voxels inside the box around what is not zero, `[N]`."""
        return self.boxes.prod(axis=1) / self.shapes.prod(axis=1)

    @property
    def shares(self) -> np.ndarray:
        """Share of each class in all labelled voxels, `[K]`; zeros where nothing is labelled."""
        total = self.voxels.sum(axis=0)
        return total / max(total.sum(), 1)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per case: shape, spacing, kept, intensity ranges, voxels of classes."""
        import pandas as pd

        axes = range(self.shapes.shape[1])
        columns: dict[str, object] = {"case": self.ids}
        columns |= {f"voxels_{axis}": self.shapes[:, axis] for axis in axes}
        columns |= {f"spacing_{axis}": self.spacings[:, axis] for axis in axes}
        columns["kept"] = self.kept
        for number, name in enumerate(self.channels):
            columns |= {f"lowest_{name}": self.ranges[:, number, 0]}
            columns |= {f"highest_{name}": self.ranges[:, number, 1]}
        columns |= {f"voxels_of_{name}": self.voxels[:, k] for k, name in enumerate(self.labels)}
        return pd.DataFrame(columns)


def fingerprint(cases: Sequence[Case], data_set: DataSet, read: Read) -> Fingerprint:
    """Look at every case once; memory holds one scan and a sample of intensities of each.

    As in nnU-Net (Isensee et al. 2021, Nature Methods 18), except that the box around what is not
    zero is that of the voxels themselves, without filling holes first.

    Args:
        cases: the training part; nothing else may decide how scans are prepared.
        data_set: whose cases they are.
        read: gives a case's scan and label.

    Raises:
        DataError: there are no cases, or one cannot be read.
    """
    if not cases:
        raise DataError("no cases to take a fingerprint of")
    looked = [_look(case, data_set, read, number) for number, case in enumerate(cases)]
    inside = [one.inside for one in looked]
    samples = inside if sum(len(sample[0]) for sample in inside) else [one.all for one in looked]
    by_label = sorted(data_set.labels, key=lambda name: data_set.labels[name])
    return Fingerprint(
        ids=tuple(case.id for case in cases),
        shapes=np.array([one.shape for one in looked], np.int64),
        boxes=np.array([one.box for one in looked], np.int64),
        spacings=np.array([one.spacing for one in looked]),
        ranges=np.array([one.ranges for one in looked]),
        voxels=np.array([one.voxels for one in looked], np.int64),
        intensities=tuple(
            _intensity(np.concatenate([sample[channel] for sample in samples]))
            for channel in range(len(data_set.channels))
        ),
        labels=tuple(by_label),
        channels=tuple(data_set.channels),
    )


@dataclass(frozen=True)
class _Look:
    """One case's part of the fingerprint; `inside` and `all` are `[C, samples]`."""

    shape: tuple[int, ...]
    box: tuple[int, ...]
    spacing: tuple[float, ...]
    ranges: np.ndarray
    voxels: np.ndarray
    inside: np.ndarray
    all: np.ndarray


def _look(case: Case, data_set: DataSet, read: Read, number: int) -> _Look:
    scan, label = read(case)
    channels = len(data_set.channels)
    if len(scan.array) != channels or len(scan.grid.shape) != data_set.spatial_dims:
        raise DataError(
            f"{scan.source}: has {len(scan.array)} channels of {len(scan.grid.shape)} axes, but "
            f"the data set has {channels} of {data_set.spatial_dims}; correct its declaration"
        )
    axes, flips = orientation(scan.grid, scan.source)
    box = content_box(canonical(scan.array, axes, flips))
    lead = tuple(range(1, scan.array.ndim))
    ranges = np.stack([scan.array.min(axis=lead), scan.array.max(axis=lead)], axis=1)
    if not np.isfinite(ranges).all():
        raise DataError(f"{scan.source}: has voxels that are not finite numbers; replace them")
    classes = len(data_set.values)
    voxels = np.zeros(classes, np.int64)
    flat = scan.array.reshape(channels, -1)
    foreground = np.empty(0, np.int64)
    if label is not None:
        if label.shape != scan.grid.shape:
            raise DataError(
                f"{case.label}: has grid {label.shape}, its image {scan.grid.shape}; label the "
                "image's own grid"
            )
        if int(label.max(initial=0)) >= classes:
            raise DataError(f"{case.label}: has class {label.max()}, but {classes} are declared")
        for part in label:
            voxels += np.bincount(part.ravel(), minlength=classes)
        foreground = np.flatnonzero(label.ravel())
    bits = np.random.Generator(np.random.Philox(number))
    return _Look(
        shape=tuple(scan.grid.shape[axis] for axis in axes),
        box=tuple(stop - start for start, stop in box),
        spacing=tuple(scan.grid.spacing[axis] for axis in axes),
        ranges=ranges.astype(np.float64),
        voxels=voxels,
        inside=flat[:, _some(foreground, bits)],
        all=flat[:, bits.integers(flat.shape[1], size=min(SAMPLES, flat.shape[1]))],
    )


def _some(voxels: np.ndarray, bits: np.random.Generator) -> np.ndarray:
    if len(voxels) <= SAMPLES:
        return voxels
    return voxels[bits.integers(len(voxels), size=SAMPLES)]


def _intensity(sample: np.ndarray) -> Intensity:
    wide = sample.astype(np.float64)
    low, high = np.percentile(wide, [0.5, 99.5])
    return Intensity(float(wide.mean()), float(wide.std()), float(low), float(high))

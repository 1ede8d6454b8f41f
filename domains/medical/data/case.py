"""The one form of data after the readers: cases of a data set, and scans with their grid."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Grid:
    """Where the voxels of a scan are.

    Args:
        shape: voxels along each axis of the array, two or three of them.
        affine: `[n + 1, n + 1]` float64 from voxel indices to millimetres, RAS+ as in NIfTI;
            pixels of images without a spacing are 1 mm wide.
    """

    shape: tuple[int, ...]
    affine: np.ndarray

    @property
    def spacing(self) -> tuple[float, ...]:
        """Millimetres between neighbours along each axis of the array."""
        n = len(self.shape)
        return tuple(float(x) for x in np.linalg.norm(self.affine[:n, :n], axis=0))


@dataclass(frozen=True)
class Scan:
    """One case in memory.

    Args:
        array: `[C, *grid.shape]` float32, one channel per modality.
        grid: where its voxels are.
        source: the file or folder it came from, as messages name it.
        header: what the writer needs to give the same kind of file back (reader's own).
    """

    array: np.ndarray
    grid: Grid
    source: Path
    header: object | None = None


@dataclass(frozen=True)
class Case:
    """One scan of a data set and what belongs to it.

    Args:
        id: unique within the data set; predictions carry it.
        patient: whose scan it is; all scans of a patient go to one part.
        images: one path per channel (a NIfTI file or a folder with one DICOM series), or one
            2-D file that holds all channels.
        label: file with the classes of every voxel, or None.
        split: "train", "val" or "test" where the data say so, else None.
        target: class of the whole image where the data have one (metric learning).
    """

    id: str
    patient: str
    images: tuple[Path, ...]
    label: Path | None = None
    split: str | None = None
    target: str | None = None


@dataclass(frozen=True)
class DataSet:
    """Every case of a folder or manifest, and what its declaration says of them.

    Args:
        cases: sorted by id.
        channels: name of each channel; "CT" (any case) is normalised over the data set.
        labels: name to class index, background 0 first, consecutive.
        values: raw value in the label files of each class index.
        spatial_dims: 2 or 3.
        targets: classes of whole images, in order; empty where there are none.
    """

    cases: tuple[Case, ...]
    channels: tuple[str, ...]
    labels: Mapping[str, int]
    values: tuple[int, ...]
    spatial_dims: int
    targets: tuple[str, ...] = field(default=())

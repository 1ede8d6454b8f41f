"""Small scans, data sets and plans in memory, for the tests of planning and preparation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from domains.medical.data.cache import PreparedCase, foreground_centres
from domains.medical.data.case import Case, DataSet, Grid, Scan
from domains.medical.data.plan import Intensity, Plan
from domains.medical.data.preprocessing import Placement

LABELS = {"background": 0, "organ": 1, "lesion": 2}


def grid(shape: Sequence[int], spacing: Sequence[float] | None = None) -> Grid:
    return Grid(tuple(shape), np.diag([*(spacing or [1.0] * len(shape)), 1.0]))


def scan(array: np.ndarray, spacing: Sequence[float] | None = None) -> Scan:
    return Scan(array.astype(np.float32), grid(array.shape[1:], spacing), Path("scan.nii.gz"))


def data_set(dims: int = 3, channels: Sequence[str] = ("MRI",)) -> DataSet:
    return DataSet((), tuple(channels), LABELS, (0, 1, 2), dims)


def case(name: str) -> Case:
    return Case(name, name, (Path(f"{name}_0000.nii.gz"),), Path(f"{name}.nii.gz"))


def plan(spacing: Sequence[float] = (1.0, 1.0, 1.0), **changed: Any) -> Plan:
    dims = len(spacing)
    made = Plan(
        spatial_dims=dims,
        channels=("MRI",),
        labels=LABELS,
        values=(0, 1, 2),
        spacing=tuple(spacing),
        patch_size=(8,) * dims,
        normalisation=("zscore",),
        intensities=(Intensity(0.0, 1.0, -3.0, 3.0),),
        batch_size=2,
    )
    return replace(made, **changed)


def prepared(
    image: np.ndarray, label: np.ndarray, name: str = "a", classes: int = 3
) -> PreparedCase:
    """A case whose prepared grid is its scan's own."""
    shape = label.shape
    placement = Placement(
        shape=shape,
        axes=tuple(range(len(shape))),
        flips=(False,) * len(shape),
        crop=tuple((0, n) for n in shape),
        prepared=shape,
        spacing=(1.0,) * len(shape),
    )
    small = label.astype(np.uint8)
    return PreparedCase(
        name, image.astype(np.float32), small, foreground_centres(small, classes), placement
    )

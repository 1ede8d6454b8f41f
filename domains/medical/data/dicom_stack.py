"""Where the slices of a DICOM series lie, from their headers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from domains.medical.data.case import Grid
from domains.medical.data.dicom_headers import require_plain, vector
from domains.medical.data.findings import BadFileError

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset

UNEVEN = 0.05
"""Share of the distance between slices by which a position may be off."""


@dataclass(frozen=True)
class Stack:
    """The slices of a series from the first to the last along their normal.

    Args:
        paths: one file per slice.
        grid: of `[columns, rows, slices]`, RAS+.
        modality: `CT`, `MR`, `PT`, ...
    """

    paths: tuple[Path, ...]
    grid: Grid
    modality: str


def stack(folder: Path, headers: dict[Path, FileDataset]) -> Stack:
    """Return the slices in order and their grid.

    Raises:
        BadFileError: they do not form one evenly spaced volume.
    """
    first, *_ = headers
    for path, header in headers.items():
        require_plain(path, header)
        _require_alike(path, header, first, headers[first])
    header = headers[first]
    across, down = np.split(vector(first, header, "ImageOrientationPatient", 6), 2)
    normal = np.cross(across, down)
    if not np.allclose([across @ across, down @ down, across @ down], [1, 1, 0], atol=1e-2):
        what = "ImageOrientationPatient holds no two perpendicular directions"
        raise BadFileError(first, what, "correct it, or convert the series to NIfTI")
    at = np.stack([vector(p, h, "ImagePositionPatient", 3) for p, h in headers.items()])
    order = np.argsort(at @ normal, kind="stable")
    files = list(headers)
    paths, at = tuple(files[place] for place in order), at[order]
    rows, columns = vector(first, header, "PixelSpacing", 2)
    if not (rows > 0 and columns > 0):
        raise BadFileError(first, "its pixel spacing is not positive", "correct PixelSpacing")
    step = _step(folder, paths, at, normal, header)
    affine = np.eye(4)
    affine[:3] = np.stack([across * columns, down * rows, step, at[0]], axis=1)
    affine[:2] *= -1
    shape = (int(header.Columns), int(header.Rows), len(paths))
    return Stack(paths, Grid(shape, affine), str(header.get("Modality", "")))


def _step(
    folder: Path, paths: Sequence[Path], at: np.ndarray, normal: np.ndarray, header: FileDataset
) -> np.ndarray:
    """Return the way from one slice to the next, in mm."""
    if len(paths) == 1:
        stated = header.get("SpacingBetweenSlices") or header.get("SliceThickness") or 1.0
        return normal * (abs(float(stated)) or 1.0)
    gaps = np.diff(at @ normal)
    usual = float(np.sort(gaps)[(len(gaps) - 1) // 2])
    closest = int(np.argmin(gaps))
    if gaps[closest] < max(UNEVEN * usual, 1e-4):
        raise BadFileError(
            folder,
            f"{paths[closest].name} and {paths[closest + 1].name} lie in the same place, "
            f"{at[closest] @ normal:.2f} mm along the series",
            "remove copies, and give time points, echoes or b-values a folder each",
        )
    widest = int(np.argmax(gaps))
    missing = np.rint(gaps / usual).astype(int) - 1
    if missing.any() and (np.abs(gaps / usual - missing - 1) < 2 * UNEVEN).all():
        count = "1 slice is" if missing.sum() == 1 else f"{missing.sum()} slices are"
        raise BadFileError(
            folder,
            f"{count} missing, as between {paths[widest].name} and "
            f"{paths[widest + 1].name}: {gaps[widest]:.2f} mm apart, usually {usual:.2f}",
            "export the series again with all its slices",
        )
    step = (at[-1] - at[0]) / (len(at) - 1)
    off = np.linalg.norm(at - at[0] - np.arange(len(at))[:, None] * step, axis=1)
    if off.max() > UNEVEN * usual:
        worst = int(np.argmax(off))
        raise BadFileError(
            folder,
            f"slices are not evenly spaced: {gaps.min():.2f} to {gaps.max():.2f} mm apart, "
            f"{paths[worst].name} is {off[worst]:.2f} mm off",
            "resample the series to even slices and give it as NIfTI",
        )
    return step


def _require_alike(path: Path, header: FileDataset, first: Path, one: FileDataset) -> None:
    if (header.Rows, header.Columns) != (one.Rows, one.Columns):
        what = f"{header.Columns} x {header.Rows} pixels, {first.name} has "
        what += f"{one.Columns} x {one.Rows}"
        raise BadFileError(path, what, "give each size its own folder")
    for tag, size, tolerance in (("ImageOrientationPatient", 6, 1e-3), ("PixelSpacing", 2, 1e-4)):
        mine, other = vector(path, header, tag, size), vector(first, one, tag, size)
        if not np.allclose(mine, other, atol=tolerance):
            what = f"another {tag} than {first.name}"
            raise BadFileError(path, what, "remove localisers, give each orientation its folder")

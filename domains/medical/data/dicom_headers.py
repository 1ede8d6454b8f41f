"""Headers of DICOM files: which belong together, and where their slices lie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from domains.medical.data.case import Grid
from domains.medical.data.findings import BadFileError, reason
from domains.medical.data.quiet import quiet

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset

SUFFIX = ".dcm"
UNEVEN = 0.05
"""Share of the distance between slices by which a position may be off."""
_TAGS = [
    "SeriesInstanceUID",
    "SeriesDescription",
    "Modality",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "SliceThickness",
    "SpacingBetweenSlices",
]


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


def is_dicom(path: Path) -> bool:
    """Say whether a file is named or marked as DICOM."""
    if path.suffix.lower() == SUFFIX:
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def dicom_files(folder: Path) -> list[Path]:
    """Return the DICOM files of a folder, hidden ones and indices left out, sorted."""
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and not path.name.startswith(".") and path.name.upper() != "DICOMDIR"
        if is_dicom(path)
    ]


def image_header(path: Path) -> FileDataset:
    """Return the header of one grey image of a single frame.

    Raises:
        BadFileError: it is none.
    """
    header = _header(path)
    if header is None:
        raise BadFileError(path, "holds no image", "give a file with pixels")
    _require_plain(path, header)
    return header


def series_headers(folder: Path) -> dict[Path, FileDataset]:
    """Return the header of each image of the one series in a folder.

    Raises:
        BadFileError: there is none, or more than one.
    """
    found = {path: header for path in dicom_files(folder) if (header := _header(path)) is not None}
    if not found:
        raise BadFileError(folder, "no DICOM image in the folder", "give the folder of one series")
    series = Counter(str(header.get("SeriesInstanceUID", "")) for header in found.values())
    if len(series) > 1:
        about = {str(h.get("SeriesInstanceUID", "")): h for h in found.values()}
        named = ", ".join(
            f"{uid or 'without UID'} ({about[uid].get('Modality', '?')} "
            f'"{about[uid].get("SeriesDescription", "")}", {count} files)'
            for uid, count in series.most_common(4)
        )
        more = ", ..." if len(series) > 4 else ""
        what = f"{len(series)} series in one folder: {named}{more}"
        raise BadFileError(folder, what, "give each series its own folder")
    return found


def stack(folder: Path, headers: dict[Path, FileDataset]) -> Stack:
    """Return the slices in order and their grid.

    Raises:
        BadFileError: they do not form one evenly spaced volume.
    """
    first, *_ = headers
    for path, header in headers.items():
        _require_plain(path, header)
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
    usual = float(np.median(gaps))
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
        raise BadFileError(
            folder,
            f"{missing.sum()} slices are missing, as between {paths[widest].name} and "
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


def _header(path: Path) -> FileDataset | None:
    """Return a header without its pixels, or None for an object that has none."""
    import pydicom

    try:
        with quiet():
            header = pydicom.dcmread(
                path, stop_before_pixels=True, force=True, specific_tags=list(_TAGS)
            )
            known = "SeriesInstanceUID" in header or "Modality" in header
            pixels = "Rows" in header and "Columns" in header
            for tag in ("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel"):
                int(header.get(tag) or 1)
    except Exception as error:
        what = f"is no DICOM file, or a damaged one ({reason(error)})"
        raise BadFileError(path, what, "replace it with an intact copy") from error
    if not pixels and not known:
        raise BadFileError(path, "is no DICOM file", "replace it with an intact copy, or remove it")
    return header if pixels else None


def _require_plain(path: Path, header: FileDataset) -> None:
    if int(header.get("NumberOfFrames") or 1) > 1:
        what = f"{header.NumberOfFrames} frames in one file"
        raise BadFileError(path, what, "convert it to NIfTI, for example with dcm2niix")
    if int(header.get("SamplesPerPixel") or 1) > 1:
        raise BadFileError(path, "is in colour", "export it as PNG")
    if not (int(header.Rows or 0) > 0 and int(header.Columns or 0) > 0):
        raise BadFileError(path, "has no pixels", "replace or remove it")


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


def vector(path: Path, header: FileDataset, tag: str, size: int) -> np.ndarray:
    """Return the numbers of a tag, float64 `[size]`.

    Raises:
        BadFileError: it is missing, or is not that many finite numbers.
    """
    values = header.get(tag)
    try:
        vector = np.array([float(value) for value in values], dtype=np.float64)
    except (TypeError, ValueError):
        vector = np.zeros(0)
    if vector.shape != (size,) or not np.isfinite(vector).all():
        what = f"{tag} is missing or is not {size} numbers"
        raise BadFileError(path, what, "convert the series to NIfTI, with its geometry")
    return vector

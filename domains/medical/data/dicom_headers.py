"""Headers of DICOM files: what is one, and which belong together."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from domains.medical.data.findings import BadFileError, reason
from domains.medical.data.quiet import quiet

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset

SUFFIX = ".dcm"
_WITHOUT_PIXELS = ("SR", "PR", "KO", "DOC", "REG", "PLAN", "RTSTRUCT", "RTPLAN", "RTRECORD")
"""Modalities of objects that lie beside images."""
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
    require_plain(path, header)
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


def _header(path: Path) -> FileDataset | None:
    """Return a header without its pixels, or None for an object that has none."""
    import pydicom

    try:
        with quiet():
            header = pydicom.dcmread(
                path, stop_before_pixels=True, force=True, specific_tags=list(_TAGS)
            )
            pixels = "Rows" in header and "Columns" in header
            for tag in _TAGS:
                header.get(tag)
            for tag in ("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel"):
                int(header.get(tag) or 1)
            for tag in ("SpacingBetweenSlices", "SliceThickness"):
                float(header.get(tag) or 1)
    except Exception as error:
        what = f"is no DICOM file, or a damaged one ({reason(error)})"
        raise BadFileError(path, what, "replace it with an intact copy") from error
    if not pixels and header.get("Modality") not in _WITHOUT_PIXELS:
        what = "is no DICOM file, or its header ends before Rows and Columns"
        raise BadFileError(path, what, "replace it with an intact copy, or remove it")
    return header if pixels else None


def require_plain(path: Path, header: FileDataset) -> None:
    """Refuse colours, several frames, and images without pixels.

    Raises:
        BadFileError: it is one of them.
    """
    if int(header.get("NumberOfFrames") or 1) > 1:
        what = f"{header.NumberOfFrames} frames in one file"
        raise BadFileError(path, what, "convert it to NIfTI, for example with dcm2niix")
    if int(header.get("SamplesPerPixel") or 1) > 1:
        raise BadFileError(path, "is in colour", "export it as PNG")
    if not (int(header.Rows or 0) > 0 and int(header.Columns or 0) > 0):
        raise BadFileError(path, "has no pixels", "replace or remove it")


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

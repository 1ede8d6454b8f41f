"""One file or folder of any format: its voxels, its grid, its label values."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from domains.medical.data import dicom_headers, pictures
from domains.medical.data.case import Grid, Scan
from domains.medical.data.findings import BadFileError

NIFTI = (".nii.gz", ".nii")
READABLE = (*NIFTI, *pictures.SUFFIXES, dicom_headers.SUFFIX)


def suffix_of(path: Path) -> str:
    """Return the ending of a name that says its format, in lower case; `.nii.gz` is one."""
    name = path.name.lower()
    return next((suffix for suffix in READABLE if name.endswith(suffix)), path.suffix.lower())


def stem_of(path: Path) -> str:
    """Return the name of a file without the ending that says its format."""
    return path.name[: len(path.name) - len(suffix_of(path))]


def is_picture(path: Path) -> bool:
    """Say whether a file is named as a 2-D picture."""
    return suffix_of(path) in pictures.SUFFIXES


def read_file(path: Path) -> Scan:
    """Return an image as its file has it: `[C, x, y, z]`, or `[C, rows, columns]` of pictures.

    Raises:
        BadFileError: nothing reads it, or it is damaged.
    """
    kind = _kind(path)
    if kind == "nifti":
        from domains.medical.data.nifti import read_nifti

        return read_nifti(path)
    if kind == "picture":
        return pictures.read_picture(path)
    from domains.medical.data import dicom

    return dicom.read_image(path) if kind == "dicom" else dicom.read_series(path)


def grid_of(path: Path) -> tuple[Grid, int, str]:
    """Return grid, channels and modality ("" unless stated) of an image; reads no voxels."""
    kind = _kind(path)
    if kind == "nifti":
        from domains.medical.data.nifti import nifti_grid

        return *nifti_grid(path), ""
    if kind == "picture":
        return *pictures.picture_grid(path), ""
    from domains.medical.data import dicom

    grid, modality = dicom.image_grid(path) if kind == "dicom" else dicom.series_grid(path)
    return grid, 1, modality


def read_labels(path: Path) -> tuple[np.ndarray, Grid]:
    """Return the raw values of a label file, integers `[*grid]`, and its grid.

    Raises:
        BadFileError: it is no label file, or is damaged.
    """
    kind = _kind(path)
    if kind == "nifti":
        from domains.medical.data.nifti import read_nifti_labels

        return read_nifti_labels(path)
    if kind == "picture":
        return pictures.read_picture_labels(path)
    raise BadFileError(path, "is no label file", "give labels as NIfTI or as a picture")


def _kind(path: Path) -> str:
    suffix = suffix_of(path)
    if path.is_dir():
        return "series"
    if suffix in NIFTI:
        return "nifti"
    if suffix in pictures.SUFFIXES:
        return "picture"
    if not path.exists():
        raise BadFileError(path, "no such file", "correct the path")
    if dicom_headers.is_dicom(path):
        return "dicom"
    what = f"no reader for {suffix or 'files without an ending'}"
    raise BadFileError(path, what, "give NIfTI, DICOM, PNG, JPEG, TIFF or BMP")

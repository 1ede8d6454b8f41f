"""Masks and maps on the exact grid of the scan they are about."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from domains.medical.data import pictures
from domains.medical.data.case import Scan
from domains.medical.data.nifti import NiftiHeader, write_nifti
from shared_runtime.errors import UsageError


def mask_suffix(scan: Scan) -> str:
    """Return the ending of mask files of a scan: `.nii.gz`, or `.png` of 2-D images."""
    return ".nii.gz" if isinstance(scan.header, NiftiHeader) else ".png"


def map_suffix(scan: Scan) -> str:
    """Return the ending of map files of a scan: `.nii.gz`, or `.tif` of 2-D images."""
    return ".nii.gz" if isinstance(scan.header, NiftiHeader) else ".tif"


def write_mask(path: Path, mask: np.ndarray, like: Scan, values: Sequence[int]) -> None:
    """Write class indices as the raw values that the label files of the data set have.

    A NIfTI file has the shape, affine, qform and sform with their codes, and units of the scan's
    file; that of a DICOM series has its patient coordinates (RAS+). The dtype is the smallest of
    uint8, int16, uint16 and int32 that holds every one of `values`, so that all masks of a data
    set have the same. Written whole or not at all.

    Args:
        path: ends in `.nii` or `.nii.gz`, or `.png` for a 2-D image.
        mask: integers `[*like.grid.shape]`.
        like: the scan.
        values: raw value of each class index.

    Raises:
        UsageError: `path` has another ending, `mask` another shape or indices beyond `values`, or
            a PNG cannot hold the values.
    """
    _require(path, mask, like, (".png",))
    if mask.size and not 0 <= int(mask.min()) <= int(mask.max()) < len(values):
        span = f"{mask.min()} to {mask.max()}"
        raise UsageError(f"{path.name}: class indices {span}, expected 0 to {len(values) - 1}")
    dtype = _dtype(values)
    raw = np.array(values, dtype=dtype)[mask]
    if isinstance(like.header, NiftiHeader):
        write_nifti(path, raw, like.header)
        return
    if min(values) < 0 or max(values) > 65535:
        raise UsageError(f"{path.name}: a PNG holds 0 to 65535, got {min(values)} to {max(values)}")
    pictures.write_png(path, raw)


def write_map(path: Path, array: np.ndarray, like: Scan) -> None:
    """Write one number per voxel as float32 on the grid of `like`.

    Args:
        path: ends in `.nii` or `.nii.gz`, or `.tif` for a 2-D image.
        array: `[*like.grid.shape]`.
        like: the scan.

    Raises:
        UsageError: `path` has another ending, or `array` another shape.
    """
    _require(path, array, like, (".tif", ".tiff"))
    if isinstance(like.header, NiftiHeader):
        write_nifti(path, array.astype(np.float32), like.header)
    else:
        pictures.write_tiff(path, array)


def _require(path: Path, array: np.ndarray, like: Scan, flat: tuple[str, ...]) -> None:
    endings = (".nii", ".nii.gz") if isinstance(like.header, NiftiHeader) else flat
    if not path.name.endswith(endings):
        raise UsageError(f"{path.name}: expected a name that ends in {' or '.join(endings)}")
    if array.shape != like.grid.shape:
        raise UsageError(
            f"{path.name}: shape {list(array.shape)} is not that of the scan, "
            f"{list(like.grid.shape)}"
        )


def _dtype(values: Sequence[int]) -> np.dtype:
    for dtype in (np.uint8, np.int16, np.uint16, np.int32):
        limits = np.iinfo(dtype)
        if limits.min <= min(values) and max(values) <= limits.max:
            return np.dtype(dtype)
    raise UsageError(f"label values {min(values)} to {max(values)} fit no integer of 32 bits")

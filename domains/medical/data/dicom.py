"""DICOM: the slices of one series as a volume, or one image in two dimensions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset
from pydicom.pixels import apply_modality_lut

from domains.medical.data.case import Grid, Scan
from domains.medical.data.dicom_headers import image_header, series_headers, vector
from domains.medical.data.dicom_stack import stack
from domains.medical.data.findings import BadFileError, reason
from domains.medical.data.nifti import new_header
from domains.medical.data.quiet import quiet


def read_series(folder: Path) -> Scan:
    """Return the one series of a folder as `[1, columns, rows, slices]`, in RAS+ millimetres.

    Slices are in the order of their positions along the normal of the image plane, whatever their
    names and numbers; a tilted gantry gives an affine with shear. Values are those of the modality
    (Hounsfield units in CT): `RescaleSlope` and `RescaleIntercept` of each slice, or its lookup
    table. `MONOCHROME1` is turned over, so that bright is high. Files that are not DICOM, and
    objects without pixels, are left out.

    Raises:
        BadFileError: several series, missing, double or unevenly spaced slices, mixed sizes or
            orientations, several frames in a file, colours, or pixels that cannot be read.
    """
    headers = series_headers(folder)
    placed = stack(folder, headers)
    array = np.empty((1, *placed.grid.shape), dtype=np.float32)
    for place, path in enumerate(placed.paths):
        array[0, :, :, place] = _pixels(path).T
    return Scan(array, placed.grid, folder, new_header(placed.grid.shape, placed.grid.affine))


def series_grid(folder: Path) -> tuple[Grid, str]:
    """Return the grid of the series in a folder, as `read_series`, and its modality."""
    placed = stack(folder, series_headers(folder))
    return placed.grid, placed.modality


def read_image(path: Path) -> Scan:
    """Return one file as `[1, rows, columns]`, with the spacing it states or pixels of 1 mm.

    Raises:
        BadFileError: it cannot be read, or holds colours or several frames.
    """
    grid, _ = image_grid(path)
    return Scan(_pixels(path)[None].astype(np.float32), grid, path)


def image_grid(path: Path) -> tuple[Grid, str]:
    """Return the grid of one file, as `read_image`, and its modality; reads no pixel."""
    header = image_header(path)
    stated = [tag for tag in ("PixelSpacing", "ImagerPixelSpacing") if header.get(tag)]
    rows, columns = vector(path, header, stated[0], 2) if stated else (1.0, 1.0)
    if not (rows > 0 and columns > 0):
        raise BadFileError(path, "its pixel spacing is not positive", "correct PixelSpacing")
    affine = np.diag([rows, columns, 1.0])
    return Grid((int(header.Rows), int(header.Columns)), affine), str(header.get("Modality", ""))


def _pixels(path: Path) -> np.ndarray:
    """Return the values of one file, float64 `[rows, columns]`."""
    import pydicom

    try:
        with quiet():
            dataset = pydicom.dcmread(path, force=True)
            stored = dataset.pixel_array
            if dataset.get("PhotometricInterpretation") == "MONOCHROME1":
                stored = _turned_over(stored, dataset)
            return np.asarray(apply_modality_lut(stored, dataset), dtype=np.float64)
    except Exception as error:
        raise _unreadable(path, dataset if "dataset" in locals() else None, error) from error


def _turned_over(stored: np.ndarray, dataset: Dataset) -> np.ndarray:
    bits = int(dataset.BitsStored)
    ends = -1 if int(dataset.PixelRepresentation) else 2**bits - 1
    return ends - stored.astype(np.int64)


def _unreadable(path: Path, dataset: FileDataset | None, error: Exception) -> BadFileError:
    syntax = None if dataset is None else dataset.file_meta.get("TransferSyntaxUID")
    undecoded = isinstance(error, RuntimeError | NotImplementedError)
    if syntax is not None and not syntax.is_private and syntax.is_compressed and undecoded:
        return BadFileError(
            path,
            f"its pixels are compressed ({syntax.name}) and no decoder for that is installed",
            "pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg, or decompress the files",
        )
    what = f"its pixels cannot be read ({reason(error)})"
    return BadFileError(path, what, "replace it with an intact copy")

"""NIfTI files: voxels, where they are, and files on the same grid again."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from io import IOBase
from pathlib import Path
from typing import cast

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.nifti1 import Nifti1Header, Nifti1Image
from nibabel.nifti2 import Nifti2Header, Nifti2Image

from domains.medical.data.case import Grid, Scan
from domains.medical.data.findings import BadFileError, reason
from domains.medical.data.geometry import usable
from shared_runtime.files import replacing

SUFFIXES = (".nii", ".nii.gz")
_DENSEST_GZIP = 1100
"""Bytes that one byte of a gzip file can stand for at most."""
_CHUNK = 1 << 20


@dataclass(frozen=True)
class NiftiHeader:
    """What the writer needs to give a file on the same grid.

    Args:
        header: of the file read, with its qform, sform and their codes.
        shape: of one channel as the file has it; a single slice may have two or three axes.
    """

    header: Nifti1Header
    shape: tuple[int, ...]


def read_nifti(path: Path) -> Scan:
    """Return a file as `[C, x, y, z]`; slices get a third axis of one voxel.

    The fourth axis of a file is its channels. Axes of one voxel after it are dropped.
    `scl_slope` and `scl_inter` are applied.

    Raises:
        BadFileError: it is no NIfTI file, is damaged, or has too many or no axes.
    """
    image = _open(path)
    grid, channels = _grid(path, image)
    raw = _voxels(path, image)
    raw = raw.reshape((*grid.shape, channels), order="F")
    proxy = cast(ArrayProxy, image.dataobj)
    slope, inter = proxy.slope, proxy.inter
    array = np.empty((channels, *grid.shape), dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for channel in range(channels):
            array[channel] = raw[..., channel]
            if (slope, inter) != (1, 0):
                array[channel] *= np.float32(slope)
                array[channel] += np.float32(inter)
    kept = NiftiHeader(image.header.copy(), tuple(int(n) for n in image.shape[:3]))
    return Scan(array, grid, path, kept)


def nifti_grid(path: Path) -> tuple[Grid, int]:
    """Return the grid of a file, as `read_nifti` gives it, and its channels; reads no voxel."""
    return _grid(path, _open(path))


def nifti_disagreement(path: Path) -> float:
    """Return how far apart, in mm, qform and sform place voxels where a file states both."""
    from domains.medical.data.geometry import distance

    image = _open(path)
    grid, _ = _grid(path, image)
    qform, sform = (form(coded=True)[0] for form in (image.get_qform, image.get_sform))
    if qform is None or sform is None:
        return 0.0
    return distance(Grid(grid.shape, qform), Grid(grid.shape, sform))


def read_nifti_labels(path: Path) -> tuple[np.ndarray, Grid]:
    """Return the raw values of a label file, as integers `[x, y, z]`, and its grid.

    Raises:
        BadFileError: as `read_nifti`; or it has several channels, or values that are no integers.
    """
    image = _open(path)
    grid, channels = _grid(path, image)
    if channels > 1:
        what = f"{channels} volumes in a label file"
        raise BadFileError(path, what, "give one volume with one value per class")
    raw = _voxels(path, image).reshape(grid.shape, order="F")
    proxy = cast(ArrayProxy, image.dataobj)
    slope, inter = proxy.slope, proxy.inter
    scaled = (slope, inter) != (1, 0)
    if raw.dtype.kind in "iu" and not scaled:
        return raw, grid
    labels = np.empty(grid.shape, dtype=np.int32, order="F")
    for place in range(grid.shape[2]):
        values = raw[..., place].astype(np.float64)
        if scaled:
            values = values * slope + inter
        whole = np.rint(values)
        wrong = ~(np.abs(values - whole) <= 1e-4) | (np.abs(whole) > 2**31 - 1)
        if wrong.any():
            what = f"{values[wrong][0]:g} among the label values"
            raise BadFileError(path, what, "give one integer per class")
        labels[..., place] = whole
    return labels, grid


def write_nifti(path: Path, array: np.ndarray, like: NiftiHeader) -> None:
    """Write `array` on the grid of `like`: same affine, qform, sform, codes, units and shape.

    Args:
        path: ends in `.nii` or `.nii.gz`; written whole or not at all.
        array: one channel, with as many voxels as `like`; its dtype is the file's.
        like: from the scan that `array` is about.
    """
    header = like.header.copy()
    header.set_data_dtype(array.dtype)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    two = isinstance(header, Nifti2Header)
    image = (Nifti2Image if two else Nifti1Image)(array.reshape(like.shape), None, header)
    with replacing(path) as partial, partial.open("wb") as file:
        if path.name.endswith(".gz"):
            with gzip.GzipFile("", "wb", 1, fileobj=file, mtime=0) as packed:
                image.to_stream(packed)
        else:
            image.to_stream(cast(IOBase, file))


def new_header(shape: tuple[int, ...], affine: np.ndarray) -> NiftiHeader:
    """Return the header of a scanner's grid that came from another format."""
    image = Nifti1Image(np.zeros((1, 1, 1), np.uint8), affine)
    image.header.set_data_shape(shape)
    image.header.set_xyzt_units("mm")
    image.header.set_sform(affine, code="scanner")
    image.header.set_qform(affine, code="scanner", strip_shears=True)
    return NiftiHeader(image.header, shape)


def _open(path: Path) -> Nifti1Image:
    try:
        image = nib.load(path)
    except FileNotFoundError:
        raise BadFileError(path, "no such file", "correct the path") from None
    except Exception as error:
        what = f"is no NIfTI file, or a damaged one ({reason(error)})"
        raise BadFileError(path, what, "replace it with an intact copy") from error
    if not isinstance(image, Nifti1Image):
        raise BadFileError(path, f"is a {type(image).__name__}", "convert it to NIfTI")
    return image


def _grid(path: Path, image: Nifti1Image) -> tuple[Grid, int]:
    shape = tuple(int(n) for n in image.shape)
    if not shape or min(shape) < 1:
        raise BadFileError(path, f"has no voxels (shape {list(shape)})", "replace or remove it")
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (2, 3, 4):
        what = f"has {len(shape)} axes, {' x '.join(map(str, shape))}"
        raise BadFileError(path, what, "give volumes, or volumes with channels in the last axis")
    size = path.stat().st_size
    needed = int(np.prod(image.shape, dtype=object)) * image.get_data_dtype().itemsize
    if needed > size * (_DENSEST_GZIP if path.name.lower().endswith(".gz") else 1):
        what = f"its header promises {needed} bytes of voxels, which a file of {size} cannot hold"
        raise BadFileError(path, what, "replace it with an intact copy")
    affine = np.array(image.affine, dtype=np.float64)
    if len(shape) == 2 and not affine[:3, 2].any():
        affine[:3, 2] = np.cross(affine[:3, 0], affine[:3, 1])
    if not usable(affine):
        what = "its affine places no voxels (zeros, NaN, or axes that fall together)"
        raise BadFileError(path, what, "correct qform and sform in its header")
    grid = Grid((*shape[:3], *(1,) * (3 - len(shape))), affine)
    return grid, shape[3] if len(shape) == 4 else 1


def _voxels(path: Path, image: Nifti1Image) -> np.ndarray:
    try:
        proxy = cast(ArrayProxy, image.dataobj)
        packed = path.name.lower().endswith(".gz")
        raw = _unpacked(path, proxy) if packed else np.asarray(proxy.get_unscaled())
    except Exception as error:
        what = f"its voxels cannot be read ({reason(error)})"
        raise BadFileError(path, what, "replace it with an intact copy") from error
    if raw.dtype.kind not in "iuf":
        what = f"has voxels of type {image.get_data_dtype()}"
        raise BadFileError(path, what, "convert it to numbers, one per channel")
    return raw


def _unpacked(path: Path, proxy: ArrayProxy) -> np.ndarray:
    """Return the voxels of a gzip file read to its end, where its checksum is."""
    content = bytearray(int(np.prod(proxy.shape, dtype=object)) * proxy.dtype.itemsize)
    view, start = memoryview(content), 0
    with gzip.open(path, "rb") as file:
        file.seek(proxy.offset)
        while start < len(content):
            count = file.readinto(view[start:])
            if not count:
                raise EOFError(f"it ends after {start} of {len(content)} bytes of voxels")
            start += count
        while file.read(_CHUNK):
            pass
    return np.frombuffer(content, proxy.dtype).reshape(proxy.shape, order="F")

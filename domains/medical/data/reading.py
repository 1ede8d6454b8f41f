"""From a case to its voxels: all channels, and classes, on one grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from domains.medical.data.case import Case, DataSet, Grid, Scan
from domains.medical.data.files import grid_of, is_picture, read_file, read_labels
from domains.medical.data.findings import BadFileError, shown
from domains.medical.data.geometry import align
from domains.medical.data.label_values import to_indices


def read_scan(case: Case, channels: int, *, spatial_dims: int | None = None) -> Scan:
    """Return all channels of a case on the grid of the first.

    Channels that hold the same places along other axes are turned. A grey picture serves where
    red, green and blue are expected, and a colour picture without colours where grey is.

    Args:
        case: which.
        channels: how many there have to be.
        spatial_dims: 2 or 3; None: a single slice has two axes, other volumes three.

    Raises:
        DataError: files that are missing or damaged, do not fit each other or `channels`, or hold
            voxels that are NaN or infinite.
    """
    first, *others = case.images
    scan = _channels(read_file(first), channels if not others else 1)
    if others and len(case.images) != channels:
        what = f"{len(case.images)} images of case {shown(case.id)}, {channels} channels expected"
        raise BadFileError(first, what, "give one image per channel")
    if others:
        array = np.empty((channels, *scan.grid.shape), dtype=np.float32)
        array[0] = scan.array[0]
        for place, path in enumerate(others, start=1):
            other = _channels(read_file(path), 1)
            array[place] = align(other.array, other.grid, path, scan.grid, first)[0]
        scan = Scan(array, scan.grid, first, scan.header)
    for place in range(channels):
        voxels = scan.array[place]
        with np.errstate(invalid="ignore"):
            total = voxels.sum(dtype=np.float64)
        if not np.isfinite(total):
            wrong = int(voxels.size - np.isfinite(voxels).sum())
            path = case.images[place if others else 0]
            what = f"{wrong} of {voxels.size} voxels are NaN or infinite"
            raise BadFileError(path, what, "replace them, as by the value of the background")
    grid = _flat(scan.grid, scan.source, spatial_dims)
    return Scan(scan.array.reshape(channels, *grid.shape), grid, scan.source, scan.header)


def read_grid(path: Path, *, spatial_dims: int | None = None) -> Grid:
    """Return where the voxels of an image are, as `read_scan` does, without reading them."""
    return _flat(grid_of(path)[0], path, spatial_dims)


def read_label(case: Case, data_set: DataSet, *, spatial_dims: int | None = None) -> np.ndarray:
    """Return the class indices of a case on the grid of its image, `[*grid]`.

    Labels that hold the same places along other axes are turned.

    Returns:
        uint8, or int64 where there are more than 256 classes.

    Raises:
        DataError: the file is missing or damaged, lies elsewhere, or holds undeclared values.
    """
    raw = read_raw_label(case, spatial_dims=spatial_dims)
    return to_indices(raw, data_set.values, case.label or case.images[0])


def read_raw_label(case: Case, *, spatial_dims: int | None = None) -> np.ndarray:
    """Return the values in the label file of a case on the grid of its image, integers `[*grid]`.

    Raises:
        DataError: as `read_label`.
    """
    image = case.images[0]
    if case.label is None:
        raise BadFileError(image, f"case {shown(case.id)} has no label", "give its label file")
    raw, grid = read_labels(case.label)
    target = grid_of(image)[0]
    if is_picture(case.label) and len(target.shape) == 2:
        grid = Grid(grid.shape, target.affine)
    raw = align(raw, grid, case.label, target, image)
    return raw.reshape(_flat(target, image, spatial_dims).shape)


def _channels(scan: Scan, expected: int) -> Scan:
    found = len(scan.array)
    if found == expected:
        return scan
    if is_picture(scan.source) and (found, expected) == (1, 3):
        return Scan(np.repeat(scan.array, 3, axis=0), scan.grid, scan.source, scan.header)
    if is_picture(scan.source) and (found, expected) == (3, 1):
        if (scan.array == scan.array[:1]).all():
            return Scan(scan.array[:1], scan.grid, scan.source, scan.header)
        raise BadFileError(scan.source, "is in colour, grey is expected", "convert it to grey")
    what = f"holds {found} channels, {expected} expected"
    if found > 1 and expected == 1 and not is_picture(scan.source):
        what = f"has four axes: {found} volumes where one is expected"
    remedy = "give one image per channel, or one with all channels in its last axis"
    raise BadFileError(scan.source, what, remedy)


def _flat(grid: Grid, source: Path, spatial_dims: int | None) -> Grid:
    """Return the grid with the axes asked for."""
    if len(grid.shape) == 3 and spatial_dims != 3 and grid.shape.count(1) == 1:
        kept = [axis for axis, n in enumerate(grid.shape) if n > 1]
        affine = np.diag([*(grid.spacing[axis] for axis in kept), 1.0])
        return Grid(tuple(grid.shape[axis] for axis in kept), affine)
    if spatial_dims is not None and len(grid.shape) != spatial_dims:
        shape = " x ".join(map(str, grid.shape))
        what = f"has {len(grid.shape)} axes ({shape}), {spatial_dims} expected"
        raise BadFileError(source, what, "give slices to 2-D models, and volumes to 3-D models")
    return grid

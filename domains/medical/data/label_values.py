"""Raw values of label files: which there are, and the class index of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from domains.medical.data.case import Case
from domains.medical.data.files import read_labels
from domains.medical.data.findings import BadFileError, Found

THREADS = 2
MOST = 64
"""Values that label files may have together where nothing declares them."""
_SLAB = 1 << 22
_SPAN = 1 << 16


def counts(labels: np.ndarray) -> dict[int, int]:
    """Return how many voxels have each value; integers of any shape, in bounded memory."""
    flat = labels.ravel(order="K")
    found: dict[int, int] = {}
    for start in range(0, flat.size, _SLAB):
        part = flat[start : start + _SLAB]
        low, high = int(part.min()), int(part.max())
        if high - low < _SPAN:
            each = np.bincount((part.astype(np.int64) - low).astype(np.intp))
            values = np.flatnonzero(each)
            each, values = each[values], values + low
        else:
            values, each = np.unique(part, return_counts=True)
        for value, count in zip(values.tolist(), each.tolist(), strict=True):
            found[value] = found.get(value, 0) + count
    return found


def to_indices(labels: np.ndarray, values: Sequence[int], source: Path) -> np.ndarray:
    """Return class indices for raw values: uint8, or int64 where there are more than 256 classes.

    Args:
        labels: integers of any shape.
        values: raw value of each class index.
        source: the file, for the message.

    Raises:
        BadFileError: a value is none of `values`.
    """
    dtype = np.uint8 if len(values) <= 256 else np.int64
    if not (labels.flags.c_contiguous or labels.flags.f_contiguous):
        labels = np.ascontiguousarray(labels)
    least, most = int(labels.min()), int(labels.max())
    if least >= 0 and most < len(values) and tuple(values) == tuple(range(len(values))):
        return labels.astype(dtype, copy=False)
    known = np.array(sorted(values))
    index = np.argsort(values).astype(dtype)
    flat = labels.ravel(order="K")
    out = np.empty(flat.shape, dtype=dtype)
    for start in range(0, flat.size, _SLAB):
        part = flat[start : start + _SLAB]
        place = np.minimum(np.searchsorted(known, part), len(known) - 1)
        if (known[place] != part).any():
            what, remedy = undeclared_counts(counts(labels), values) or ("", "")
            raise BadFileError(source, what, remedy)
        out[start : start + _SLAB] = index[place]
    return out.reshape(labels.shape, order="C" if labels.flags.c_contiguous else "F")


def undeclared_counts(found: Mapping[int, int], values: Sequence[int]) -> tuple[str, str] | None:
    """Return what to say of values that are none of those declared, and the remedy."""
    strange = [(value, count) for value, count in found.items() if value not in values]
    if not strange:
        return None
    named = ", ".join(f"{value} ({count} voxels)" for value, count in strange[:4])
    more = f" and {len(strange) - 4} more" if len(strange) > 4 else ""
    expected = ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")
    what = f"label values {named}{more} are none of {expected}"
    return what, "correct the file, or declare the values"


def infer_labels(cases: Iterable[Case], found: Found) -> None:
    """Name the classes by the values of all label files: `label_1` and so on, in their order.

    0 is background whether a file holds it or not. Files that cannot be read are left to `check`.
    """
    paths = [case.label for case in cases if case.label is not None]
    with ThreadPoolExecutor(THREADS) as pool:
        each = list(pool.map(_values, paths))
    values = sorted(set().union({0}, *each))
    if len(values) > MOST:
        several = max(zip(each, paths, strict=True), key=lambda pair: len(pair[0]))
        found.error(
            several[1],
            f"{len(several[0])} values in one label file, {len(values)} in all: no classes",
            "save masks without interpolation or compression losses, one value per class",
        )
        values = [0]
    found.values = tuple(values)
    names = ["background", *(f"label_{index}" for index in range(1, len(values)))]
    found.labels = {name: index for index, name in enumerate(names)}


def _values(path: Path) -> set[int]:
    try:
        return set(counts(read_labels(path)[0]))
    except BadFileError:
        return set()

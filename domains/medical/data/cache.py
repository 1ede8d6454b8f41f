"""Prepared cases of a training part: in memory, or as memory maps in a folder."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from domains.medical.data.case import Case
from domains.medical.data.fingerprint import Read
from domains.medical.data.plan import Plan
from domains.medical.data.preprocessing import Placement, preprocess, preprocess_label
from shared_runtime.errors import DataError, UsageError

FORMAT = "1"
"""Changes whenever the same files and plan are prepared in another way."""
CENTRES = 5_000
"""Voxels of each class that a patch can be put around."""
_PLANNED = ("channels", "spacing", "normalisation", "intensities", "crop")
_ARRAYS = ("image", "label", "centres")


@dataclass(frozen=True, eq=False)
class PreparedCase:
    """A case as patches are cut from it.

    Args:
        id: of the case.
        image: `[C, *grid]` float32, in memory or mapped.
        label: `[*grid]` class indices, in memory or mapped.
        centres: int32 `[n, 1 + axes]`, class and position of up to 5000 voxels of each class but
            the background, evenly spread over the class.
        placement: where the array lies in its scan.
    """

    id: str
    image: np.ndarray
    label: np.ndarray
    centres: np.ndarray
    placement: Placement


def prepare_cases(
    cases: Sequence[Case], plan: Plan, read: Read, folder: Path | None = None
) -> tuple[PreparedCase, ...]:
    """Prepare labelled cases, one at a time.

    An entry of `folder` is named by a hash over the contents of the case's files and what the
    plan says of preparation, so it is never stale. It holds checksums; one that is damaged, or
    was left half-written, is made again. Entries of other plans stay until they are deleted.

    Args:
        cases: with labels.
        plan: how to prepare them.
        read: gives a case's scan and label.
        folder: where to keep prepared scans; None keeps them in memory.

    Raises:
        DataError: a case has no label, or its files cannot be read.
        UsageError: `folder` cannot be written.
    """
    if folder is None:
        return tuple(_prepare(case, plan, read) for case in cases)
    return tuple(_kept(case, plan, read, folder) for case in cases)


def case_key(case: Case, plan: Plan) -> str:
    """Return a name for the prepared form of a case, from its files' contents and the plan.

    Raises:
        DataError: a file cannot be read.
    """
    planned = {name: value for name, value in asdict(plan).items() if name in _PLANNED}
    found = hashlib.sha256(json.dumps([FORMAT, planned]).encode())
    for path in (*case.images, *([case.label] if case.label else [])):
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            try:
                with file.open("rb") as stream:
                    found.update(hashlib.file_digest(stream, "sha256").digest())
            except OSError as error:
                raise DataError(f"{file}: cannot be read: {error.strerror or error}") from error
        found.update(b"|")
    return found.hexdigest()[:32]


def foreground_centres(label: np.ndarray, classes: int) -> np.ndarray:
    """Return class and position of evenly spread voxels of each class but 0, int32."""
    flat = label.ravel()
    inside = np.flatnonzero(flat)
    values = flat[inside]
    rows = []
    for index in range(1, classes):
        found = inside[values == index]
        count = min(len(found), CENTRES)
        some = found[np.arange(count) * len(found) // max(count, 1)]
        rows.append(np.stack([np.full(count, index), *np.unravel_index(some, label.shape)], 1))
    return np.concatenate([np.empty((0, 1 + label.ndim)), *rows]).astype(np.int32)


def _prepare(case: Case, plan: Plan, read: Read) -> PreparedCase:
    scan, label = read(case)
    if label is None:
        raise DataError(f"{scan.source}: has no label, so it cannot train or validate a model")
    prepared = preprocess(scan, plan)
    small = preprocess_label(label, prepared.placement)
    centres = foreground_centres(small, plan.classes)
    return PreparedCase(case.id, prepared.array, small, centres, prepared.placement)


def _kept(case: Case, plan: Plan, read: Read, folder: Path) -> PreparedCase:
    entry = folder / case_key(case, plan)
    found = _open(case.id, entry)
    if found is not None:
        return found
    prepared = _prepare(case, plan, read)
    try:
        _write(prepared, entry)
    except OSError as error:
        raise UsageError(f"data.cache: {folder}: cannot be written: {error}") from error
    found = _open(case.id, entry)
    if found is None:
        raise UsageError(f"data.cache: {entry}: does not hold what was written; check the disk")
    return found


def _write(prepared: PreparedCase, entry: Path) -> None:
    partial = entry.with_name(f".{entry.name}.{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        for name in _ARRAYS:
            np.save(partial / f"{name}.npy", getattr(prepared, name))
        state = {
            "placement": prepared.placement.to_dict(),
            "checksums": {name: _checksum(partial / f"{name}.npy") for name in _ARRAYS},
        }
        (partial / "entry.json").write_text(json.dumps(state), encoding="utf-8")
        shutil.rmtree(entry, ignore_errors=True)
        os.replace(partial, entry)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _open(name: str, entry: Path) -> PreparedCase | None:
    """Map the arrays of an entry; None where it is missing or damaged."""
    try:
        state = json.loads((entry / "entry.json").read_text(encoding="utf-8"))
        for array, checksum in state["checksums"].items():
            if _checksum(entry / f"{array}.npy") != checksum:
                return None
        arrays = {n: np.load(entry / f"{n}.npy", mmap_mode="r") for n in _ARRAYS}
        return PreparedCase(name, placement=Placement.from_dict(state["placement"]), **arrays)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _checksum(path: Path) -> int:
    found = 0
    with path.open("rb") as stream:
        while block := stream.read(2**20):
            found = zlib.crc32(block, found)
    return found

"""What is wrong with the files of one case, and what the checks across cases need of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np

from domains.medical.data.case import Case, DataSet
from domains.medical.data.files import NIFTI, suffix_of
from domains.medical.data.findings import Found, problem_of
from domains.medical.data.label_values import counts, undeclared_counts
from domains.medical.data.pictures import LOSSY
from domains.medical.data.reading import read_raw_label, read_scan
from shared_runtime.domain import Problem

_FORMS = 0.5
"""Voxels by which `qform` and `sform` may differ."""
_ROW = 1 << 20


@dataclass
class CaseReport:
    """One case as its files are.

    Args:
        case: which.
        problems: what is wrong with it.
        digest: of its voxels and shape; None where they cannot be read.
        spacing: millimetres.
        ranges: smallest and largest value of each channel.
        values: raw label values that it has.
    """

    case: Case
    problems: list[Problem] = field(default_factory=list)
    digest: str | None = None
    spacing: tuple[float, ...] | None = None
    ranges: tuple[tuple[float, float], ...] = ()
    values: frozenset[int] = frozenset()


def look_at(case: Case, data_set: DataSet) -> CaseReport:
    """Read every voxel of a case; never raise for bad data."""
    report = CaseReport(case)
    found = Found()
    try:
        _look_at_image(report, data_set, found)
    except Exception as error:
        found.problems.append(problem_of(error, case.images[0]))
    if case.label is not None:
        try:
            _look_at_label(report, data_set, found)
        except Exception as error:
            found.problems.append(problem_of(error, case.label))
    report.problems = list(dict.fromkeys(found.problems))
    return report


def _look_at_image(report: CaseReport, data_set: DataSet, found: Found) -> None:
    case = report.case
    scan = read_scan(case, len(data_set.channels), spatial_dims=data_set.spatial_dims)
    report.spacing = scan.grid.spacing
    ranges = []
    for channel, name in zip(scan.array, data_set.channels, strict=True):
        low, high = float(channel.min()), float(channel.max())
        ranges.append((low, high))
        if low == high:
            what = f"channel {name} is {low:g} everywhere"
            found.warning(case.images[0], what, "replace the image, or leave the case out")
    report.ranges = tuple(ranges)
    report.digest = _digest(scan.array)
    for path in case.images:
        if suffix_of(path) in NIFTI:
            from domains.medical.data.nifti import nifti_disagreement

            apart = nifti_disagreement(path)
            if apart > _FORMS * min(scan.grid.spacing):
                what = f"qform and sform place voxels up to {apart:.3g} mm apart, sform is used"
                found.warning(path, what, "remove the wrong one")


def _look_at_label(report: CaseReport, data_set: DataSet, found: Found) -> None:
    case = report.case
    if case.label is None:
        return
    has = counts(read_raw_label(case, spatial_dims=data_set.spatial_dims))
    report.values = frozenset(has)
    if strange := undeclared_counts(has, data_set.values):
        found.error(case.label, *strange)
    elif set(has) == {0}:
        found.warning(case.label, "no foreground", "leave the case out if it should have some")
    if suffix_of(case.label) in LOSSY:
        what = "a JPEG mask, which has lost its values: 128 and above is taken as 255"
        found.warning(case.label, what, "save masks as PNG")


def _digest(array: np.ndarray) -> str:
    digest = hashlib.blake2b(str(array.shape).encode(), digest_size=16)
    flat = array.reshape(-1)
    for start in range(0, flat.size, _ROW):
        digest.update(np.ascontiguousarray(flat[start : start + _ROW]).data)
    return digest.hexdigest()

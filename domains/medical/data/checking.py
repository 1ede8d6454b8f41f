"""`check`: everything wrong with a data set, in one pass over its files."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from domains.medical.data.case import Case, DataSet
from domains.medical.data.case_checks import CaseReport, look_at
from domains.medical.data.config import DataConfig
from domains.medical.data.findings import Found, shown
from domains.medical.data.label_values import THREADS
from domains.medical.data.layouts import read_data_set
from domains.medical.data.modality_checks import check_modalities
from domains.medical.data.series_checks import series_of, tell_of_labels
from domains.medical.data.splits import shared_patients, split
from shared_runtime.domain import Problem
from shared_runtime.errors import DataError

_ANISOTROPY = 3.0
"""Ratio of spacings between cases above which they are told."""


def check(config: DataConfig) -> list[Problem]:
    """Return everything wrong with the data; never raise for bad data.

    Errors are what training, scoring or prediction would stop at or be wrong by: files that are
    missing, damaged or do not fit each other, voxels that are not finite, undeclared label values,
    patients or copies of an image in several parts. Warnings are what may be meant: labels
    without foreground, classes that no case has, intensities that are no Hounsfield units where CT
    is declared, constant images, an outlying spacing, `qform` and `sform` that differ, and
    patients too few for the parts of a training run: a trained model can be scored on them.
    A folder of DICOM series, at any depth, is checked as volumes to predict for.
    """
    try:
        data_set, problems = read_data_set(config)
        series = series_of(config, data_set)
    except Exception as error:
        return [_unforeseen(config, error)]
    found = Found(problems=list(problems))
    if series is not None:
        data_set, found = series, Found()
        tell_of_labels(config, series, found)
    if not data_set.cases:
        return found.problems
    with ThreadPoolExecutor(THREADS) as pool:
        reports = list(pool.map(lambda case: look_at(case, data_set), data_set.cases))
    for report in reports:
        found.problems += report.problems
    _check_copies(data_set, reports, found)
    _check_classes(config, data_set, reports, found)
    _check_spacing(reports, found)
    check_modalities(config, data_set, reports, found)
    if series is None:
        _check_parts(config, data_set, found)
    return found.problems


def _check_copies(data_set: DataSet, reports: Iterable[CaseReport], found: Found) -> None:
    first: dict[str, Case] = {}
    for report in reports:
        if report.digest is None:
            continue
        case, other = report.case, first.setdefault(report.digest, report.case)
        if other is case:
            continue
        what = f"the same voxels as {other.id}"
        if other.patient != case.patient:
            what += f", which is patient {other.patient}, this is {case.patient}"
            found.error(case.images[0], what, "remove one, or give both the same patient")
        else:
            found.warning(case.images[0], what, "remove one")


def _check_classes(
    config: DataConfig, data_set: DataSet, reports: list[CaseReport], found: Found
) -> None:
    if not any(report.values for report in reports):
        return
    if len(data_set.values) < 2:
        found.error(config.path, "no class but the background", "add labels with foreground")
    seen = set().union(*(report.values for report in reports))
    for name, index in data_set.labels.items():
        if index and data_set.values[index] not in seen:
            what = f"no label file has class {name} (value {data_set.values[index]})"
            found.warning(config.path, what, "remove it from the declaration, or add cases")


def _check_spacing(reports: list[CaseReport], found: Found) -> None:
    known = [report for report in reports if report.spacing is not None]
    if not known:
        return
    middle = sorted(_volume(report) for report in known)[len(known) // 2]
    for report in known:
        if not 1 / _ANISOTROPY**3 <= _volume(report) / middle <= _ANISOTROPY**3:
            stated = " x ".join(f"{mm:g}" for mm in report.spacing or ())
            what = f"a spacing of {stated} mm, far from that of most cases"
            found.warning(report.case.images[0], what, "correct its header if it is wrong")


def _volume(report: CaseReport) -> float:
    product = 1.0
    for mm in report.spacing or ():
        product *= mm
    return product


def _check_parts(config: DataConfig, data_set: DataSet, found: Found) -> None:
    shared = shared_patients(data_set)
    for patient, parts in shared.items():
        what = f"patient {patient} is in {' and '.join(parts)}"
        found.error(config.path, what, "put all scans of a patient in one part")
    if not shared:
        try:
            split(data_set, config, seed=0)
        except DataError as error:
            what, _, remedy = str(error).partition("; ")
            found.warning(config.path, f"cannot be trained on: {what}", remedy)


def _unforeseen(config: DataConfig, error: Exception) -> Problem:
    what = f"cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
    return Problem("error", shown(config.path), what, "correct the data, or report this")

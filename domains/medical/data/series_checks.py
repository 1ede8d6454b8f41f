"""A folder of DICOM series without labels, as `predict` takes it, to be checked as volumes."""

from __future__ import annotations

from domains.medical.data.case import DataSet
from domains.medical.data.config import DataConfig
from domains.medical.data.files import grid_of
from domains.medical.data.findings import Found
from domains.medical.data.items import case_of, items
from shared_runtime.errors import DataError


def series_of(config: DataConfig, data_set: DataSet) -> DataSet | None:
    """Return the series of a folder in which no image has a mask; None where there are none.

    A series is a folder with DICOM slices, at any depth; files that are all of different series
    are 2-D images.
    """
    if config.layout not in ("auto", "images") or not config.path.is_dir():
        return None
    if any(case.label is not None for case in data_set.cases):
        return None
    if any(case.images[0].is_dir() for case in data_set.cases):
        return None
    folders = [item for item in items(config.path, "*") if item.is_dir()]
    if not folders:
        return None
    modality = ""
    for folder in folders:
        try:
            modality = grid_of(folder)[2]
            break
        except (DataError, OSError):
            continue
    cases = tuple(case_of(folder, 1) for folder in folders)
    return DataSet(cases, (modality or "image",), {"background": 0}, (0,), 3)


def tell_of_labels(config: DataConfig, series: DataSet, found: Found) -> None:
    """Say what a folder of series without labels is good for."""
    many = len(series.cases)
    what = (
        f"{many} DICOM series without labels, to predict for"
        if many > 1
        else ("a DICOM series without labels, to predict for")
    )
    remedy = "to train, give a CSV with the columns image (folder of a series), label and patient"
    found.warning(config.path, what, remedy)

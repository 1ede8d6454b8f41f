"""The hooks of the domain for models that embed images; see `shared_runtime.domain.Domain`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from domains.medical.data.config import DataConfig
from domains.medical.data.items import case_of
from domains.medical.data.reading import read_label, read_scan
from domains.medical.data.splits import split
from domains.medical.data.writing import mask_suffix, write_mask
from domains.medical.preparation import unseen, usable
from domains.medical.retrieval import preparation, runs
from domains.medical.retrieval.runs import (
    baselines,
    calibrate,
    evaluate,
    example_inputs,
    explain,
    make_task,
)
from shared_runtime.domain import LoadedModel, Prediction, Prepared

__all__ = [
    "baselines",
    "calibrate",
    "evaluate",
    "example_inputs",
    "explain",
    "make_task",
    "predict",
    "prepare",
]
SHOWN = (0, 255)
"""Values of background and foreground in the weak masks that are written."""


def prepare(
    config: DataConfig, *, seed: int, preprocessing: Mapping[str, Any] | None = None
) -> Prepared:
    """Read, split and normalise images with a class; see `retrieval.preparation.prepare`.

    Raises:
        DataError: the data cannot be used, or a scored patient was trained on.
    """
    data_set = usable(config)
    if preprocessing is None:
        parts = split(data_set, config, seed)
        trained = sorted({case.patient for case in (*parts.train, *parts.val)})
    else:
        trained = preprocessing["trained_on"]
        parts = unseen(data_set, trained, config, seed)
    dims = data_set.spatial_dims
    labelled = all(case.label is not None for case in data_set.cases)
    prepared = preparation.prepare(
        data_set,
        parts,
        config,
        preprocessing,
        read=partial(read_scan, channels=len(data_set.channels), spatial_dims=dims),
        read_label=partial(read_label, data_set=data_set, spatial_dims=dims) if labelled else None,
        seed=seed,
    )
    state = {**prepared.preprocessing, "trained_on": trained}
    return dataclasses.replace(prepared, preprocessing=state)


def predict(
    loaded: LoadedModel, source: Path, *, data: DataConfig, batch_size: int, device: torch.device
) -> Prediction:
    """Return the nearest training cases of an image, its class and embedding, and a weak mask."""
    channels = len(loaded.preprocessing["channels"])
    case = case_of(source, channels)
    scan = read_scan(case, channels, spatial_dims=loaded.preprocessing["spatial_dims"])
    table = runs.predict(loaded, [(case.id, scan)], batch_size=batch_size, device=device)
    mask = runs.weak_mask(loaded, scan, device=device)
    write = partial(write_mask, mask=mask, like=scan, values=SHOWN)
    return Prediction(table, {f"{case.id}{mask_suffix(scan)}": write})

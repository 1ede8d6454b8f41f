"""The hooks of the medical domain; see `shared_runtime.domain.Domain`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from domains.medical import evaluation, explanation, preparation
from domains.medical.data import checking
from domains.medical.data import items as scan_items
from domains.medical.data.config import DataConfig
from domains.medical.data.reading import read_label, read_scan
from domains.medical.data.samples import write_samples
from domains.medical.data.splits import split as split_cases
from domains.medical.data.writing import map_suffix, mask_suffix, write_map, write_mask
from domains.medical.ensemble import load_ensemble, plan_of
from domains.medical.models.registry import MODELS
from domains.medical.prediction import predict_scan
from domains.medical.retrieval import runs as retrieval
from domains.medical.tasks import SegmentationTask
from domains.medical.training_config import MedicalTraining
from shared_runtime.domain import (
    Evaluation,
    Figure,
    LoadedModel,
    ModelSpec,
    Prediction,
    Prepared,
    Problem,
)
from shared_runtime.errors import UsageError
from shared_runtime.training import Task
from shared_runtime.training_config import TrainingConfig

__all__ = ["DataConfig"]

NAME = "medical"
SUMMARY = "Segment medical scans and show where the masks come from."
DISCLAIMER = (
    "Research software: no medical device, not for diagnosis or treatment. "
    "Masks must be checked by a person who is qualified to."
)
DEFAULT_MODEL = "MPUNet"
Training = MedicalTraining
SAMPLES: Mapping[str, str] = {"segment": "ct", "fuse": "petct", "retrieve": "dermoscopy"}
PREDICTS: Sequence[str] = (".nii.gz", ".png")
PREDICT_SETTINGS: Sequence[str] = (
    "overlap",
    "mirror",
    "keep_largest",
    "fill_holes",
    "uncertainty",
    "ensemble",
)
DEMO: Mapping[str, Any] = {
    "model": "MPUNet",
    "set": [
        "data.patches_per_epoch=24",
        "model.width=8",
        "training.epochs=6",
        "training.average=0.9",
        "training.schedule=cosine",
    ],
}


def models() -> Mapping[str, ModelSpec]:
    """Return every model by name."""
    return MODELS


def write_sample(out: Path, *, seed: int) -> list[Path]:
    """Write CT phantoms, PET/CT pairs, dermoscopy-like images and a DICOM series."""
    return write_samples(out, seed=seed)


def check(data: DataConfig) -> list[Problem]:
    """Return everything wrong with the scans, their labels and how they can be split."""
    return checking.check(data)


def items(folder: Path, pattern: str) -> list[Path]:
    """Return one path per case; of a data set, the cases that it has for prediction."""
    tests = folder / "imagesTs"
    return scan_items.items(tests if tests.is_dir() else folder, pattern)


def prepare(
    data: DataConfig,
    *,
    spec: ModelSpec,
    seed: int,
    preprocessing: Mapping[str, Any] | None = None,
) -> Prepared:
    """Read, split, plan and prepare scans.

    Raises:
        DataError: the data cannot be used.
    """
    if spec.task != "retrieve":
        return preparation.prepare(data, seed=seed, preprocessing=preprocessing)
    data_set = preparation.usable(data)
    return retrieval.prepare(
        data_set,
        split_cases(data_set, data, seed),
        data,
        preprocessing,
        read=partial(read_scan, channels=len(data_set.channels)),
        read_label=partial(read_label, data_set=data_set),
        seed=seed,
    )


def make_task(model: nn.Module, prepared: Prepared, training: TrainingConfig) -> Task:
    """Return the Lightning module that trains `model`.

    Raises:
        UsageError: epochs would be selected on the training part.
    """
    assert isinstance(training, MedicalTraining)
    if not isinstance(prepared.train, preparation.Part):
        return retrieval.make_task(model, prepared, training)
    same = prepared.train.cases == evaluation.part_of(prepared, "val").cases
    if same and (training.select != "last" or training.patience):
        raise UsageError(
            "data.validation=0 leaves no patients to select epochs on; set training.select=last "
            "and training.patience=0"
        )
    return SegmentationTask(model, training)


def calibrate(
    model: nn.Module, prepared: Prepared, *, batch_size: int, device: torch.device
) -> Mapping[str, Any]:
    """Return the embedded training images of a retrieval model; nothing for others."""
    if isinstance(prepared.train, preparation.Part):
        return {}
    return retrieval.calibrate(model, prepared, batch_size=batch_size, device=device)


def evaluate(
    loaded: LoadedModel,
    prepared: Prepared,
    split: str,
    *,
    batch_size: int,
    device: torch.device,
    seed: int,
) -> Evaluation:
    """Score every case of `split`."""
    hook = retrieval.evaluate if loaded.spec.task == "retrieve" else evaluation.evaluate
    return hook(loaded, prepared, split, batch_size=batch_size, device=device, seed=seed)


def baselines(prepared: Prepared, split: str) -> Mapping[str, Mapping[str, float]]:
    """Score what needs no network on the same cases."""
    hook = evaluation if isinstance(prepared.train, preparation.Part) else retrieval
    return hook.baselines(prepared, split)


def predict(
    loaded: LoadedModel, source: Path, *, data: DataConfig, batch_size: int, device: torch.device
) -> Prediction:
    """Predict the mask of one case on its own grid, or what is near an image."""
    channels = loaded.arguments["channels"]
    case = scan_items.case_of(source, channels)
    scan = read_scan(case, channels, spatial_dims=loaded.arguments["spatial_dims"])
    if loaded.spec.task == "retrieve":
        table = retrieval.predict(loaded, [(case.id, scan)], batch_size=batch_size, device=device)
        mask = retrieval.weak_mask(loaded, scan, device=device)
        write = partial(write_mask, mask=mask, like=scan, values=(0, 255))
        return Prediction(table, {f"{case.id}{mask_suffix(scan)}": write})
    plan = plan_of(loaded)
    networks = load_ensemble(loaded, data, MODELS, device)
    found = predict_scan(networks, scan, plan, data, batch_size=batch_size, device=device)
    table = found.table
    table.insert(0, "case", case.id)
    files = {
        f"{case.id}{mask_suffix(scan)}": partial(
            write_mask, mask=found.mask, like=scan, values=plan.values
        )
    }
    for name, values in found.maps.items():
        files[f"{name}/{case.id}{map_suffix(scan)}"] = partial(write_map, array=values, like=scan)
    return Prediction(table, files)


def explain(
    loaded: LoadedModel, prepared: Prepared, *, device: torch.device
) -> tuple[list[Figure], Mapping[str, pd.DataFrame]]:
    """Return attention maps over scans, and what each head attends to."""
    if loaded.spec.task == "retrieve":
        return retrieval.explain(loaded, prepared, device=device)
    return explanation.explain_run(loaded, prepared, device=device)


def example_inputs(arguments: Mapping[str, Any], batch_size: int) -> dict[str, Tensor]:
    """Return inputs of a model built with `arguments`, for export."""
    if "targets" in arguments:
        return retrieval.example_inputs(arguments, batch_size)
    generator = torch.Generator().manual_seed(0)
    shape = (batch_size, arguments["channels"], *arguments["patch_size"])
    return {"image": torch.randn(shape, generator=generator)}

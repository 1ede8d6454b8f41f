"""The hooks of the medical domain; see `shared_runtime.domain.Domain`.

Each imports what it needs: MONAI, Lightning and torchvision take seconds that `check` need not wait
for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from domains.medical.data.config import DataConfig
from domains.medical.models.registry import MODELS, RETRIEVE
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
from shared_runtime.training_config import TrainingConfig

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from torch import Tensor, nn

    from shared_runtime.training import Task

__all__ = ["DataConfig"]

NAME = "medical"
SUMMARY = "Segment medical scans and show where the masks come from."
DISCLAIMER = (
    "Research software: no medical device, not for diagnosis or treatment. "
    "Masks must be checked by a person who is qualified to."
)
DEFAULT_MODEL = "MPUNet"
Training = MedicalTraining
SAMPLES: Mapping[str, str] = {"segment": "ct", "fuse": "petct", RETRIEVE: "dermoscopy"}
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
        "data.patch_size=[24,24,24]",
        "data.patches_per_epoch=32",
        "data.foreground=0.6",
        "model.width=8",
        "model.depth=3",
        "training.epochs=30",
        "training.batch_size=2",
        "training.learning_rate=0.008",
        "training.average=0.95",
        "training.precision=bf16-mixed",
    ],
}


def models() -> Mapping[str, ModelSpec]:
    """Return every model by name."""
    return MODELS


def write_sample(out: Path, *, seed: int) -> list[Path]:
    """Write CT phantoms, PET/CT pairs, dermoscopy-like images and DICOM series."""
    from domains.medical.data.samples import write_samples

    return write_samples(out, seed=seed)


def check(data: DataConfig) -> list[Problem]:
    """Return everything wrong with the scans, their labels and how they can be split."""
    from domains.medical.data import checking

    return checking.check(data)


def items(folder: Path, pattern: str) -> list[Path]:
    """Return one path per case; of a data set, the cases that it has for prediction."""
    from domains.medical.data import items as scans

    tests = folder / "imagesTs"
    return scans.items(tests if tests.is_dir() else folder, pattern)


def item_files(item: Path) -> list[Path]:
    """Return the files of all channels of a case, or the slices of a series."""
    from domains.medical.data import items as scans

    return scans.item_files(item)


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
    return _runs(spec.task).prepare(data, seed=seed, preprocessing=preprocessing)


def make_task(model: nn.Module, prepared: Prepared, training: TrainingConfig) -> Task:
    """Return the Lightning module that trains `model`."""
    return _runs_of(prepared).make_task(model, prepared, training)


def calibrate(
    model: nn.Module, prepared: Prepared, *, batch_size: int, device: torch.device
) -> Mapping[str, Any]:
    """Return the embedded training images of a retrieval model; nothing for others."""
    return _runs_of(prepared).calibrate(model, prepared, batch_size=batch_size, device=device)


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
    runs = _runs(loaded.spec.task)
    return runs.evaluate(loaded, prepared, split, batch_size=batch_size, device=device, seed=seed)


def baselines(prepared: Prepared, split: str) -> Mapping[str, Mapping[str, float]]:
    """Score what needs no network on the same cases."""
    return _runs_of(prepared).baselines(prepared, split)


def predict(
    loaded: LoadedModel, source: Path, *, data: DataConfig, batch_size: int, device: torch.device
) -> Prediction:
    """Predict the mask of one case on its own grid, or what an image resembles."""
    runs = _runs(loaded.spec.task)
    return runs.predict(loaded, source, data=data, batch_size=batch_size, device=device)


def explain(
    loaded: LoadedModel, prepared: Prepared, *, device: torch.device
) -> tuple[list[Figure], Mapping[str, pd.DataFrame]]:
    """Return attention maps over scans, and what each head attends to."""
    return _runs(loaded.spec.task).explain(loaded, prepared, device=device)


def example_inputs(arguments: Mapping[str, Any], batch_size: int) -> dict[str, Tensor]:
    """Return inputs of a model built with `arguments`, for export."""
    task = RETRIEVE if "targets" in arguments else ""
    return _runs(task).example_inputs(arguments, batch_size)


def _runs(task: str) -> ModuleType:
    if task == RETRIEVE:
        from domains.medical import retrieval_runs

        return retrieval_runs
    from domains.medical import segmentation_runs

    return segmentation_runs


def _runs_of(prepared: Prepared) -> ModuleType:
    return _runs(RETRIEVE if "targets" in prepared.preprocessing else "")

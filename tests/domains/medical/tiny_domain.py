"""A domain of one tiny model over the real preparation and scoring, for tests of verbs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from domains.medical import evaluation, preparation
from domains.medical.data.config import DataConfig
from domains.medical.tasks import SegmentationTask
from domains.medical.training_config import MedicalTraining
from shared_runtime.domain import Evaluation, LoadedModel, ModelSpec, Prepared, Problem
from shared_runtime.errors import UsageError
from shared_runtime.task import Task
from shared_runtime.training_config import TrainingConfig

__all__ = ["DataConfig"]

NAME = "medical"
SUMMARY = "For tests."
DISCLAIMER = "For tests only."
DEFAULT_MODEL = "Tiny"
Training = MedicalTraining
broken_folds: set[int] = set()
"""Folds whose scoring crashes."""


class Tiny(nn.Module):
    """One convolution."""

    def __init__(
        self, *, channels: int, classes: int, spatial_dims: int, patch_size: tuple[int, ...]
    ) -> None:
        super().__init__()
        layer = {2: nn.Conv2d, 3: nn.Conv3d}[spatial_dims]
        self.layer = layer(channels, classes, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        return self.layer(image)


def models() -> Mapping[str, ModelSpec]:
    path = "tests.domains.medical.tiny_domain:Tiny"
    return {
        "Tiny": ModelSpec("Tiny", path, "segment", "none", "One convolution.", None),
        "Finder": ModelSpec("Finder", path, "retrieve", "none", "Finds.", None),
    }


def check(data: DataConfig) -> list[Problem]:
    return []


def prepare(
    data: DataConfig, *, spec: ModelSpec, seed: int, preprocessing: Mapping[str, Any] | None = None
) -> Prepared:
    return preparation.prepare(data, seed=seed, preprocessing=preprocessing)


def make_task(model: nn.Module, prepared: Prepared, training: TrainingConfig) -> Task:
    assert isinstance(training, MedicalTraining)
    return SegmentationTask(model, training)


def calibrate(
    model: nn.Module, prepared: Prepared, *, batch_size: int, device: torch.device
) -> Mapping[str, Any]:
    return {}


def evaluate(
    loaded: LoadedModel,
    prepared: Prepared,
    split: str,
    *,
    batch_size: int,
    device: torch.device,
    seed: int,
) -> Evaluation:
    part = evaluation.part_of(prepared, split)
    if part.source.config.fold in broken_folds:
        raise RuntimeError("the machine\nran out of luck")
    return evaluation.evaluate(
        loaded, prepared, split, batch_size=batch_size, device=device, seed=seed
    )


def baselines(prepared: Prepared, split: str) -> Mapping[str, Mapping[str, float]]:
    part = evaluation.part_of(prepared, split)
    return {"cases": {"dice": float(len(part.cases)), "iou": float(np.pi)}}


def explain(loaded: LoadedModel, prepared: Prepared, *, device: torch.device) -> Any:
    raise UsageError("no attention")

"""The hooks of the domain for segmentation models; see `shared_runtime.domain.Domain`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from domains.medical.data.config import DataConfig
from domains.medical.data.items import case_of
from domains.medical.data.reading import read_scan
from domains.medical.data.writing import map_suffix, mask_suffix, write_map, write_mask
from domains.medical.ensemble import load_ensemble, plan_of
from domains.medical.evaluation import baselines, evaluate, part_of
from domains.medical.explanation import explain_run as explain
from domains.medical.models.registry import MODELS
from domains.medical.prediction import predict_scan
from domains.medical.preparation import prepare
from domains.medical.training_config import MedicalTraining
from shared_runtime.domain import LoadedModel, Prediction, Prepared
from shared_runtime.errors import UsageError
from shared_runtime.task import Task

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


def make_task(model: nn.Module, prepared: Prepared, training: MedicalTraining) -> Task:
    """Return the Lightning module that trains `model`.

    Raises:
        UsageError: epochs would be selected on the training part.
    """
    from domains.medical.tasks import SegmentationTask

    same = part_of(prepared, "train").cases == part_of(prepared, "val").cases
    if same and (training.select != "last" or training.patience):
        raise UsageError(
            "data.validation=0 leaves no patients to select epochs on; set training.select=last "
            "and training.patience=0"
        )
    return SegmentationTask(model, training)


def calibrate(
    model: nn.Module, prepared: Prepared, *, batch_size: int, device: torch.device
) -> dict[str, Any]:
    """Nothing is fitted after training."""
    return {}


def predict(
    loaded: LoadedModel, source: Path, *, data: DataConfig, batch_size: int, device: torch.device
) -> Prediction:
    """Predict the mask of one case on its own grid, with its maps where they are asked for."""
    plan = plan_of(loaded)
    case = case_of(source, len(plan.channels))
    scan = read_scan(case, len(plan.channels), spatial_dims=plan.spatial_dims)
    models = load_ensemble(loaded, data, MODELS, device)
    found = predict_scan(models, scan, plan, data, batch_size=batch_size, device=device)
    table = found.table
    table.insert(0, "case", case.id)
    mask = partial(write_mask, mask=found.mask, like=scan, values=plan.values)
    files = {f"{case.id}{mask_suffix(scan)}": mask}
    for name, values in found.maps.items():
        files[f"{name}/{case.id}{map_suffix(scan)}"] = partial(write_map, array=values, like=scan)
    return Prediction(table, files)


def example_inputs(arguments: Mapping[str, Any], batch_size: int) -> dict[str, Tensor]:
    """Return patches for a model built with `arguments`, for export."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch_size, arguments["channels"], *arguments["patch_size"])
    return {"image": torch.randn(shape, generator=generator)}

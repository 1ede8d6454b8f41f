"""The hooks of the forecasting domain; see `shared_runtime.domain.Domain`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from domains.forecasting import classification_runs, forecasting_runs, prediction
from domains.forecasting.data.config import DataConfig
from domains.forecasting.data.reading import read_panel
from domains.forecasting.data.samples import TRAIN, WIDE, write_samples
from domains.forecasting.data.splits import split_panel
from domains.forecasting.data.uea import read_ts
from domains.forecasting.data.windows import WindowSet
from domains.forecasting.examples import example_inputs
from domains.forecasting.explanation import explain_run
from domains.forecasting.models.registry import MODELS
from domains.forecasting.tasks import ClassifyTask, ForecastTask
from domains.forecasting.training_config import ForecastTraining
from shared_runtime.batch import files_in
from shared_runtime.domain import (
    Evaluation,
    Figure,
    LoadedModel,
    ModelSpec,
    Prediction,
    Prepared,
    Problem,
)
from shared_runtime.errors import DataError, UsageError
from shared_runtime.training import Task
from shared_runtime.training_config import TrainingConfig

__all__ = ["DataConfig", "example_inputs"]

NAME = "forecasting"
SUMMARY = "Forecast and classify time series."
DISCLAIMER = ""
DEFAULT_MODEL = "InvertedTransformer"
Training = ForecastTraining
SAMPLES: Mapping[str, str] = {"forecast": WIDE, "classify": TRAIN}
PREDICTS: Sequence[str] = ()
PREDICT_SETTINGS: Sequence[str] = ()
DEMO: Mapping[str, Any] = {
    "model": "InvertedTransformer",
    "set": [
        "data.horizon=24",
        "data.quantiles=[0.1,0.5,0.9]",
        "model.d_model=64",
        "model.d_ff=128",
        "model.dropout=0.1",
        "model.normalise=last",
        "training.epochs=8",
        "training.batch_size=32",
        "training.learning_rate=0.002",
        "training.schedule=cosine",
    ],
}


def models() -> Mapping[str, ModelSpec]:
    """Return every model by name."""
    return MODELS


def write_sample(out: Path, *, seed: int) -> list[Path]:
    """Write a wide table, a long table and a labelled pair of `.ts` files."""
    return write_samples(out, seed)


def check(data: DataConfig) -> list[Problem]:
    """Return everything wrong with the file, and whether it can be split as asked."""
    if is_labelled(data):
        return _check_labelled(data)
    panel, problems = read_panel(data)
    if panel is not None:
        try:
            split_panel(panel, data)
        except DataError as error:
            where, _, rest = str(error).partition(": ")
            what, _, remedy = rest.partition("; ")
            problems.append(Problem("error", where, what, remedy))
    return problems


def _check_labelled(data: DataConfig) -> list[Problem]:
    problems = []
    try:
        paths = [data.path, classification_runs.test_file(data)]
    except DataError as error:
        paths = [data.path]
        problems.append(_problem(error))
    for path in paths:
        try:
            read_ts(path)
        except DataError as error:
            problems.append(_problem(error))
    return problems


def _problem(error: DataError) -> Problem:
    head, _, remedy = str(error).partition("; ")
    where, _, what = head.rpartition(": ")
    return Problem("error", where, what, remedy)


def is_labelled(data: DataConfig) -> bool:
    """Return whether the file holds labelled series rather than series to forecast."""
    return data.format == "uea" or (data.format == "auto" and data.path.suffix == ".ts")


def prepare(
    data: DataConfig,
    *,
    spec: ModelSpec,
    seed: int,
    preprocessing: Mapping[str, Any] | None = None,
) -> Prepared:
    """Read, split, standardise and index the data of a run.

    Raises:
        DataError: the data cannot be used.
        UsageError: the model does another task than the data are for.
    """
    if is_labelled(data) != (spec.task == "classify"):
        able = [name for name, other in MODELS.items() if other.task != spec.task]
        kind = "labelled series" if is_labelled(data) else "series to forecast"
        raise UsageError(
            f"{data.path} holds {kind}, but {spec.name} is for the task {spec.task}; "
            f"choose one of {', '.join(able)}"
        )
    if is_labelled(data):
        return classification_runs.prepare(data, seed, preprocessing)
    return forecasting_runs.prepare(data, spec, preprocessing)


def make_task(model: nn.Module, prepared: Prepared, training: TrainingConfig) -> Task:
    """Return the Lightning module that trains `model`."""
    if not isinstance(prepared.train, WindowSet):
        return ClassifyTask(model, training)
    loss = training.loss if isinstance(training, ForecastTraining) else "mse"
    quantiles = prepared.preprocessing["quantiles"]
    return ForecastTask(model, training, loss=loss, quantiles=quantiles)


def calibrate(
    model: nn.Module, prepared: Prepared, *, batch_size: int, device: torch.device
) -> Mapping[str, Any]:
    """Return conformal offsets of quantile forecasts; empty for everything else."""
    if not isinstance(prepared.train, WindowSet):
        return {}
    return forecasting_runs.calibrate(model, prepared, batch_size=batch_size, device=device)


def evaluate(
    loaded: LoadedModel,
    prepared: Prepared,
    split: str,
    *,
    batch_size: int,
    device: torch.device,
    seed: int,
) -> Evaluation:
    """Score every item of `split`."""
    runs = forecasting_runs if loaded.spec.task == "forecast" else classification_runs
    return runs.evaluate(loaded, prepared, split, batch_size=batch_size, device=device, seed=seed)


def baselines(prepared: Prepared, split: str) -> Mapping[str, Mapping[str, float]]:
    """Score the naive baselines on the same items."""
    runs = forecasting_runs if isinstance(prepared.train, WindowSet) else classification_runs
    return runs.baselines(prepared, split)


def items(folder: Path, pattern: str) -> list[Path]:
    """Return the files of a folder."""
    return files_in(folder, pattern)


def item_files(item: Path) -> list[Path]:
    """Return the file itself."""
    return [item]


def predict(
    loaded: LoadedModel, source: Path, *, data: DataConfig, batch_size: int, device: torch.device
) -> Prediction:
    """Forecast past the end of a file, or classify its series."""
    hook = prediction.predict if loaded.spec.task == "forecast" else classification_runs.predict
    return Prediction(hook(loaded, source, batch_size=batch_size, device=device))


def explain(
    loaded: LoadedModel, prepared: Prepared, *, device: torch.device
) -> tuple[list[Figure], Mapping[str, pd.DataFrame]]:
    """Return lag importance and attention matrices."""
    return explain_run(loaded, prepared, device=device)

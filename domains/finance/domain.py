"""The hooks of the finance domain; see `shared_runtime.domain.Domain`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from domains.finance import evaluation, explanation, prediction, preparation
from domains.finance.data.config import DataConfig
from domains.finance.data.reading import item_files, items, read_books
from domains.finance.data.samples import LOBSTER, write_samples
from domains.finance.data.sampling import sample
from domains.finance.data.splits import split
from domains.finance.data.windows import make_windows
from domains.finance.models.registry import MODELS
from domains.finance.tasks import TrendTask, class_weights
from domains.finance.training_config import FinanceTraining
from shared_runtime.domain import (
    Evaluation,
    Figure,
    LoadedModel,
    ModelSpec,
    Prediction,
    Prepared,
    Problem,
)
from shared_runtime.errors import DataError
from shared_runtime.options import model_arguments
from shared_runtime.training import Task
from shared_runtime.training_config import TrainingConfig

__all__ = ["DataConfig", "item_files", "items"]

NAME = "finance"
SUMMARY = "Forecast the next move of a limit order book, and say what it is worth after costs."
DISCLAIMER = "Research software: no investment advice. Past order books do not promise profits."
DEFAULT_MODEL = "TLOB"
Training = FinanceTraining
SAMPLES: Mapping[str, str] = {"trend": LOBSTER}
PREDICTS: Sequence[str] = ()
PREDICT_SETTINGS: Sequence[str] = ()
DEMO: Mapping[str, Any] = {
    "model": "TLOB",
    "set": [
        "data.lookback=16",
        "data.horizon=20",
        "data.train_stride=2",
        "model.d_model=16",
        "model.layers=1",
        "model.dropout=0.2",
        "model.latest_bins=16",
        "training.epochs=4",
        "training.patience=1",
        "training.batch_size=64",
        "training.learning_rate=0.0005",
        "training.optimizer=adamw",
        "training.schedule=cosine",
        "training.average=0.95",
    ],
}


def models() -> Mapping[str, ModelSpec]:
    """Return every model by name."""
    return MODELS


def write_sample(out: Path, *, seed: int) -> list[Path]:
    """Write simulated order books as LOBSTER pairs, tables of snapshots and diffs, and FI-2010."""
    return write_samples(out, seed=seed)


def check(data: DataConfig) -> list[Problem]:
    """Return everything wrong with the files, and whether they can be split as asked."""
    series, problems = read_books(data)
    if any(problem.severity == "error" for problem in problems):
        return problems
    try:
        sampled = [sample(one, data.sample, data.every) for one in series]
        make_windows(sampled, split(sampled, data), data)
    except DataError as error:
        where, _, rest = str(error).partition(": ")
        what, _, remedy = rest.partition("; ")
        problems.append(Problem("error", where, what, remedy or "change the data or the setting"))
    return problems


def prepare(
    data: DataConfig,
    *,
    spec: ModelSpec,
    seed: int,
    preprocessing: Mapping[str, Any] | None = None,
) -> Prepared:
    """Read, sample, label, split and window order books.

    Raises:
        DataError: the data cannot be used.
    """
    prepared = preparation.prepare(data, preprocessing)
    decided = {
        "book_columns": 0 if data.features == "relative" else 4 * data.levels,
        "order_type_column": None,
    }
    known = model_arguments(spec)
    arguments = {name: value for name, value in decided.items() if name in known}
    return dataclasses.replace(prepared, model_arguments={**prepared.model_arguments, **arguments})


def make_task(model: nn.Module, prepared: Prepared, training: TrainingConfig) -> Task:
    """Return the Lightning module that trains `model`."""
    assert isinstance(training, FinanceTraining)
    return TrendTask(
        model,
        training,
        label_smoothing=training.label_smoothing,
        class_weights=class_weights(tuple(prepared.preprocessing["shares"]), training.balance),
    )


def calibrate(
    model: nn.Module, prepared: Prepared, *, batch_size: int, device: torch.device
) -> Mapping[str, Any]:
    """Nothing is fitted after training."""
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
    """Score and trade every window of `split`."""
    return evaluation.evaluate(
        loaded, prepared, split, batch_size=batch_size, device=device, seed=seed
    )


def baselines(prepared: Prepared, split: str) -> Mapping[str, Mapping[str, float]]:
    """Score and trade the rules and fitted baselines on the same windows."""
    return evaluation.baselines(prepared, split)


def predict(
    loaded: LoadedModel, source: Path, *, data: DataConfig, batch_size: int, device: torch.device
) -> Prediction:
    """Forecast after every row of a file."""
    return Prediction(prediction.predict(loaded, source, batch_size=batch_size, device=device))


def explain(
    loaded: LoadedModel, prepared: Prepared, *, device: torch.device
) -> tuple[list[Figure], Mapping[str, pd.DataFrame]]:
    """Return sensitivities by event and feature, and attention matrices."""
    return explanation.explain_run(loaded, prepared, device=device)


def example_inputs(arguments: Mapping[str, Any], batch_size: int) -> dict[str, Tensor]:
    """Return windows of a model built with `arguments`, for export."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch_size, arguments["lookback"], arguments["features"])
    return {"x": torch.randn(shape, generator=generator)}

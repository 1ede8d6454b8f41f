"""What a domain gives the runtime: one module that satisfies :class:`Domain`.

Nothing heavy is imported here, so command lines that only print help stay fast.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch
    from matplotlib.figure import Figure as MatplotlibFigure
    from torch import Tensor, nn

    from shared_runtime.training import Task, TrainingConfig


@dataclass(frozen=True)
class ModelSpec:
    """One model of a domain, as `heed <domain> models` lists it."""

    name: str
    target: str
    """Import path of the class, `package.module:Class`."""
    task: str
    """What it does, in the domain's own words: `forecast`, `classify`, ..."""
    paper: str
    summary: str
    attention: str | None
    """Default mechanism: of the core, or one of the paper's own; None where the model has none to
    swap."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """The paper's own training settings; keys of :class:`TrainingConfig`."""
    new_only: Sequence[str] = ()
    """Arguments that only a new model needs, such as a file of weights to start from; they are not
    saved with a trained one."""

    def load(self) -> type[nn.Module]:
        """Import and return the class."""
        module, _, name = self.target.partition(":")
        return getattr(importlib.import_module(module), name)


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a data set, as `check` reports it."""

    severity: Literal["error", "warning"]
    where: str
    """File, and row, column, series or slice in it."""
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.where}: {self.what}; {self.remedy}"


@dataclass(frozen=True)
class DomainOption:
    """A command-line flag of one domain that sets one configuration key."""

    flag: str
    key: str
    """Dotted configuration key, such as `data.lookback`."""
    type: type
    help: str
    verbs: tuple[str, ...] = ("train",)


class Batches(Protocol):
    """A data set that assembles whole batches: no per-item Python.

    One whose items differ from epoch to epoch, such as random patches, also has
    `start_epoch(epoch)`, which is called before the first batch of each epoch, resumed ones
    included.
    """

    def __len__(self) -> int: ...

    def batch(self, indices: np.ndarray) -> dict[str, Tensor]:
        """Return the items at `indices` (int64 `[n]`) as tensors of leading size n."""
        ...


@dataclass(frozen=True)
class Prepared:
    """Data ready for a model, and all that prediction needs to do the same again."""

    train: Batches
    val: Batches
    test: Batches
    model_arguments: Mapping[str, Any]
    """Constructor arguments that the data decide (channels, look-back, classes, ...)."""
    preprocessing: Mapping[str, Any]
    """JSON state fitted on the training part only: scalers, names, frequency, label maps."""
    data_hash: str
    summary: Mapping[str, Any]
    """What to print and to write into the run: counts, spans, frequency."""


@dataclass(frozen=True)
class Interval:
    """A metric with its confidence interval."""

    value: float
    ci_low: float | None = None
    ci_high: float | None = None


@dataclass(frozen=True)
class Figure:
    """One picture of a report."""

    title: str
    caption: str
    figure: MatplotlibFigure


@dataclass(frozen=True)
class Evaluation:
    """What scoring one split gives."""

    metrics: Mapping[str, Interval]
    n_scored: int
    predictions: pd.DataFrame
    figures: Sequence[Figure] = ()
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    text: str = ""
    """What it comes to in plain words, shown above the results; a line is a paragraph."""
    shown: Sequence[str] = ()
    """Metrics that tables in reports and terminals show; all where there are none."""
    files: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    """Further tables by the name of the CSV file they are written to beside `metrics.json`."""


@dataclass(frozen=True)
class Prediction:
    """What predicting for one item gives."""

    table: pd.DataFrame
    files: Mapping[str, Callable[[Path], None]] = field(default_factory=dict)
    """Files in the field's own format by name, the main one first; each is written to the path
    that its function is given."""


@dataclass(frozen=True)
class LoadedModel:
    """A model read back from a run folder."""

    spec: ModelSpec
    model: nn.Module
    arguments: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    folder: Path


class Domain(Protocol):
    """A domain's hooks; a module `domains.<name>.domain` that defines them all."""

    NAME: str
    SUMMARY: str
    DISCLAIMER: str
    """Shown by the command and in every report; empty where none is needed."""
    DEFAULT_MODEL: str
    DataConfig: type
    """Dataclass of the `data:` section; its first field is `path`."""
    Training: type[TrainingConfig]
    """Dataclass of the `training:` section: `TrainingConfig`, or one that adds to it."""
    SAMPLES: Mapping[str, str]
    """File that `write_sample` writes for each model task, relative to its folder."""
    PREDICTS: Sequence[str]
    """Endings of the files that `predict` writes beside its table, such as `.nii.gz`."""
    PREDICT_SETTINGS: Sequence[str]
    """Keys of the `data:` section that `predict` follows; others are the trained model's."""
    DEMO: Mapping[str, Any]
    """What `heed demo` trains: `model`, and `set`: a list of `key=value` that keep it brief."""

    def models(self) -> Mapping[str, ModelSpec]:
        """Return every model by name."""
        ...

    def write_sample(self, out: Path, *, seed: int) -> list[Path]:
        """Write a small synthetic data set in the field's format; return its files."""
        ...

    def check(self, data: Any) -> list[Problem]:
        """Return everything wrong with the data, in one pass; never raise for bad data."""
        ...

    def prepare(
        self,
        data: Any,
        *,
        spec: ModelSpec,
        seed: int,
        preprocessing: Mapping[str, Any] | None = None,
    ) -> Prepared:
        """Read, split, fit scalers on the training part and index the windows or items.

        `preprocessing` is the state of a trained model: it is used as it is, nothing is
        fitted, so that a model is scored on other data with the scalers it was trained with.
        """
        ...

    def make_task(self, model: nn.Module, prepared: Prepared, training: TrainingConfig) -> Task:
        """Return the Lightning module that trains `model`."""
        ...

    def calibrate(
        self, model: nn.Module, prepared: Prepared, *, batch_size: int, device: torch.device
    ) -> Mapping[str, Any]:
        """Return preprocessing state fitted on validation data after training; may be empty."""
        ...

    def evaluate(
        self,
        loaded: LoadedModel,
        prepared: Prepared,
        split: str,
        *,
        batch_size: int,
        device: torch.device,
        seed: int,
    ) -> Evaluation:
        """Score every item of `split` ("val" or "test")."""
        ...

    def baselines(self, prepared: Prepared, split: str) -> Mapping[str, Mapping[str, float]]:
        """Score the naive baselines on the same items with the same metrics."""
        ...

    def items(self, folder: Path, pattern: str) -> list[Path]:
        """Return what `predict` takes one at a time in a folder, sorted."""
        ...

    def item_files(self, item: Path) -> list[Path]:
        """Return every file that predicting for an item reads; a change of one is noticed."""
        ...

    def predict(
        self,
        loaded: LoadedModel,
        source: Path,
        *,
        data: Any,
        batch_size: int,
        device: torch.device,
    ) -> Prediction:
        """Predict for one item in the field's own format; keep its ids and timestamps.

        `data` is the `data:` section of the run with what the command changes in it.
        """
        ...

    def explain(
        self, loaded: LoadedModel, prepared: Prepared, *, device: torch.device
    ) -> tuple[list[Figure], Mapping[str, pd.DataFrame]]:
        """Return pictures and tables of what the model attended to."""
        ...

    def example_inputs(self, arguments: Mapping[str, Any], batch_size: int) -> dict[str, Tensor]:
        """Return keyword inputs of `forward` of a model built with `arguments`, for export."""
        ...

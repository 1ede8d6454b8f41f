"""Classification runs: labelled series from `.ts` files, scores and tables."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure as MatplotlibFigure
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from domains.forecasting.data.config import DataConfig
from domains.forecasting.data.uea import (
    LabelledSeries,
    LabelledSet,
    fit_channel_scale,
    labelled_set,
    read_ts,
)
from shared_runtime.charts import SEQUENTIAL, style
from shared_runtime.domain import Evaluation, Figure, Interval, LoadedModel, Prepared
from shared_runtime.errors import DataError, UsageError
from shared_runtime.intervals import mean_interval

_VALIDATION_SHARE = 0.2
_RESAMPLES = 500


def test_file(data: DataConfig) -> Path:
    """Return the test file: the one given, or `X_TEST.ts` beside `X_TRAIN.ts`.

    Raises:
        DataError: there is none.
    """
    path = data.test_path or data.path.with_name(data.path.name.replace("_TRAIN", "_TEST"))
    if path == data.path or not path.is_file():
        raise DataError(f"{data.path}: no test file {path}; set data.test_path")
    return path


def prepare(data: DataConfig, seed: int, preprocessing: Mapping[str, Any] | None) -> Prepared:
    """Read both files; a stratified fifth of the training file is the validation part.

    Mean and standard deviation are those of the training part alone.
    """
    train_file, other = read_ts(data.path), test_file(data)
    test = read_ts(other)
    if train_file.values.shape[2] != test.values.shape[2]:
        raise DataError(
            f"{other}: {test.values.shape[2]} channels, {data.path} has "
            f"{train_file.values.shape[2]}; give files of one data set"
        )
    train, val = _held_out(data.path, train_file, seed)
    if preprocessing is None:
        mean, std = fit_channel_scale(train)
        classes = train_file.classes
        longest = int(max(train_file.lengths.max(), test.lengths.max()))
    else:
        mean, std = np.asarray(preprocessing["mean"]), np.asarray(preprocessing["std"])
        classes, longest = tuple(preprocessing["classes"]), int(preprocessing["max_length"])
    sets = [
        _standardised(path, series, classes, mean, std, longest)
        for path, series in ((data.path, train), (data.path, val), (other, test))
    ]
    digest = hashlib.sha256(data.path.read_bytes() + other.read_bytes()).hexdigest()
    return Prepared(
        train=sets[0],
        val=sets[1],
        test=sets[2],
        model_arguments={
            "channels": train.values.shape[2],
            "classes": len(classes),
            "max_length": longest,
        },
        preprocessing={
            "mean": mean.tolist(),
            "std": std.tolist(),
            "classes": list(classes),
            "max_length": longest,
        },
        data_hash=digest,
        summary={
            "file": data.path.name,
            "channels": train.values.shape[2],
            "classes": ", ".join(classes),
            "length": f"{int(train_file.lengths.min())} to {longest}",
            "training / validation / test series": " / ".join(str(len(part)) for part in sets),
        },
    )


def _held_out(
    path: Path, series: LabelledSeries, seed: int
) -> tuple[LabelledSeries, LabelledSeries]:
    """Split off a fifth, each class in proportion where there are enough series for that."""
    count = len(series.labels)
    if count < 2:
        raise DataError(
            f"{path}: {count} series; training and validation need at least 2; give more"
        )
    sizes = np.unique(series.labels, return_counts=True)[1]
    held_out = math.ceil(_VALIDATION_SHARE * count)
    each = sizes.min() >= 2 and len(sizes) <= min(held_out, count - held_out)
    part, held = train_test_split(
        np.arange(count),
        test_size=_VALIDATION_SHARE,
        random_state=seed,
        stratify=series.labels if each else None,
    )
    return _rows(series, np.sort(part)), _rows(series, np.sort(held))


def _standardised(
    path: Path,
    series: LabelledSeries,
    classes: tuple[str, ...],
    mean: np.ndarray,
    std: np.ndarray,
    longest: int,
) -> LabelledSet:
    try:
        return labelled_set(series, classes, mean, std, longest)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _rows(series: LabelledSeries, rows: np.ndarray) -> LabelledSeries:
    return LabelledSeries(
        series.values[rows], series.lengths[rows], series.labels[rows], series.classes
    )


def evaluate(
    loaded: LoadedModel,
    prepared: Prepared,
    split: str,
    *,
    batch_size: int,
    device: torch.device,
    seed: int,
) -> Evaluation:
    """Score every series: accuracy and macro F1, with the predicted class of each."""
    items = _labelled(prepared, split)
    probability = _probabilities(loaded.model, items, batch_size, device)
    truth, predicted = items.label.numpy(), probability.argmax(1)
    classes = loaded.preprocessing["classes"]
    right = (truth == predicted).astype(float)
    metrics = {"accuracy": mean_interval(right, seed=seed)}
    metrics["macro_f1"] = _bootstrap_f1(truth, predicted, seed)
    table = pd.DataFrame({"row": np.arange(len(truth))})
    table["label"] = np.asarray(classes)[truth]
    table["predicted"] = np.asarray(classes)[predicted]
    for number, name in enumerate(classes):
        table[f"p-{name}"] = probability[:, number]
    return Evaluation(metrics, len(items), table, [_confusion(truth, predicted, classes)])


def _bootstrap_f1(truth: np.ndarray, predicted: np.ndarray, seed: int) -> Interval:
    classes = int(max(truth.max(), predicted.max())) + 1
    draws = np.random.default_rng(seed).integers(0, len(truth), size=(_RESAMPLES, len(truth)))
    cells = (truth * classes + predicted)[draws] + classes**2 * np.arange(_RESAMPLES)[:, None]
    counts = np.bincount(cells.ravel(), minlength=_RESAMPLES * classes**2)
    low, high = np.quantile(_macro_f1(counts.reshape(_RESAMPLES, classes, classes)), [0.025, 0.975])
    value = f1_score(truth, predicted, average="macro", zero_division=0)
    return Interval(float(value), float(low), float(high))


def _macro_f1(counts: np.ndarray) -> np.ndarray:
    """Return macro F1 `[N]` of confusion matrices `[N, K, K]` over the classes that occur."""
    right = np.diagonal(counts, axis1=1, axis2=2)
    total = counts.sum(axis=1) + counts.sum(axis=2)
    return (2 * right / np.maximum(total, 1)).sum(axis=1) / (total > 0).sum(axis=1)


def _probabilities(
    model: torch.nn.Module, items: LabelledSet, batch_size: int, device: torch.device
) -> np.ndarray:
    model.eval()
    parts = []
    with torch.inference_mode():
        for first in range(0, len(items), batch_size):
            batch = items.batch(np.arange(first, min(first + batch_size, len(items))))
            scores = model(batch["x"].to(device), batch["valid"].to(device))
            parts.append(scores.float().softmax(-1).cpu().numpy())
    return np.concatenate(parts)


def _confusion(truth: np.ndarray, predicted: np.ndarray, classes: list[str]) -> Figure:
    counts = confusion_matrix(truth, predicted, labels=range(len(classes)))
    with style():
        figure = MatplotlibFigure(figsize=(5.0, 4.2))
        axes = figure.subplots()
        axes.grid(False)
        axes.imshow(counts, cmap=SEQUENTIAL)
        for (row, column), count in np.ndenumerate(counts):
            if count:
                dark = count > counts.max() / 2
                axes.text(
                    column, row, count, ha="center", va="center", color="white" if dark else "black"
                )
        axes.set_xticks(range(len(classes)), labels=classes, rotation=45)
        axes.set_yticks(range(len(classes)), labels=classes)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
    return Figure("Confusion matrix", "Series of each true class by predicted class.", figure)


def baselines(prepared: Prepared, split: str) -> dict[str, dict[str, float]]:
    """Score the majority class and logistic regressions on simple features."""
    train, items = _labelled(prepared, "train"), _labelled(prepared, split)
    label, truth = train.label.numpy(), items.label.numpy()
    majority = np.full(len(truth), np.bincount(label).argmax())
    results = {"majority class": majority}
    for name, features in (
        ("logistic, mean and spread", _moments),
        ("logistic, resampled to 10 steps", _resampled),
    ):
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        model.fit(features(train), label)
        results[name] = model.predict(features(items))
    return {
        name: {
            "accuracy": float(accuracy_score(truth, predicted)),
            "macro_f1": float(f1_score(truth, predicted, average="macro", zero_division=0)),
        }
        for name, predicted in results.items()
    }


def _moments(items: LabelledSet) -> np.ndarray:
    count = items.valid.sum(1, keepdim=True)
    mean = items.x.sum(1) / count
    centred = (items.x - mean[:, None]) * items.valid.unsqueeze(-1)
    return torch.cat([mean, (centred.square().sum(1) / count).sqrt()], 1).numpy()


def _resampled(items: LabelledSet, steps: int = 10) -> np.ndarray:
    rows = []
    for x, length in zip(items.x.numpy(), items.valid.sum(1).tolist(), strict=True):
        places = np.linspace(0, length - 1, steps)
        rows.append(
            [np.interp(places, np.arange(length), x[:length, c]) for c in range(x.shape[1])]
        )
    return np.asarray(rows).reshape(len(rows), -1)


def predict(
    loaded: LoadedModel, source: Path, *, batch_size: int, device: torch.device
) -> pd.DataFrame:
    """Return class and class probabilities of every series of a `.ts` file."""
    state = loaded.preprocessing
    series = read_ts(source)
    if series.values.shape[2] != len(state["mean"]):
        raise DataError(
            f"{source}: {series.values.shape[2]} channels, the model was trained on "
            f"{len(state['mean'])}"
        )
    classes = tuple(state["classes"])
    mean, std = np.asarray(state["mean"]), np.asarray(state["std"])
    items = _standardised(source, series, classes, mean, std, state["max_length"])
    probability = _probabilities(loaded.model, items, batch_size, device)
    table = pd.DataFrame({"row": np.arange(len(items))})
    table["predicted"] = np.asarray(classes)[probability.argmax(1)]
    for number, name in enumerate(classes):
        table[f"p-{name}"] = probability[:, number]
    return table


def _labelled(prepared: Prepared, split: str) -> LabelledSet:
    items = getattr(prepared, split)
    if not isinstance(items, LabelledSet):
        raise UsageError("these data are series to forecast; choose a model that forecasts")
    return items

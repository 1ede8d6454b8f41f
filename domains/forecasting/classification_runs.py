"""Classification runs: labelled series from `.ts` files, scores and tables."""

from __future__ import annotations

import hashlib
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
from shared_runtime.domain import Evaluation, Figure, LoadedModel, Prepared
from shared_runtime.errors import DataError, UsageError
from shared_runtime.intervals import mean_interval

_VALIDATION_SHARE = 0.2


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
    rows = np.arange(len(train_file.labels))
    counts = pd.Series(train_file.labels).value_counts()
    stratify = train_file.labels if counts.min() >= 2 else None
    part, held = train_test_split(
        rows, test_size=_VALIDATION_SHARE, random_state=seed, stratify=stratify
    )
    train, val = _rows(train_file, np.sort(part)), _rows(train_file, np.sort(held))
    if preprocessing is None:
        mean, std = fit_channel_scale(train)
        classes = train_file.classes
        longest = int(max(train_file.lengths.max(), test.lengths.max()))
    else:
        mean, std = np.asarray(preprocessing["mean"]), np.asarray(preprocessing["std"])
        classes, longest = tuple(preprocessing["classes"]), int(preprocessing["max_length"])
    sets = [labelled_set(series, classes, mean, std, longest) for series in (train, val, test)]
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


def _bootstrap_f1(truth: np.ndarray, predicted: np.ndarray, seed: int) -> Any:
    from shared_runtime.domain import Interval

    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(truth), size=(500, len(truth)))
    values = [f1_score(truth[d], predicted[d], average="macro", zero_division=0) for d in draws]
    low, high = np.quantile(values, [0.025, 0.975])
    value = f1_score(truth, predicted, average="macro", zero_division=0)
    return Interval(float(value), float(low), float(high))


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
    items = labelled_set(
        series, classes, np.asarray(state["mean"]), np.asarray(state["std"]), state["max_length"]
    )
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

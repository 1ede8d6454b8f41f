"""The smallest real domain: regression on the rows of a CSV file."""

from __future__ import annotations

import hashlib
import io
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

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
from shared_runtime.training_config import TrainingConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from shared_runtime.task import Task

NAME = "toy"
SUMMARY = "Regression on the rows of a table."
DISCLAIMER = "For tests only."
DEFAULT_MODEL = "Tokens"
Training = TrainingConfig
SAMPLES = {"regress": "rows.csv"}
PREDICTS = (".mean",)
PREDICT_SETTINGS = ("factor",)
DEMO = {"model": "Tokens", "set": ["training.epochs=2"]}

_HERE = "tests.shared_runtime.toy_domain.models"


@dataclass(frozen=True)
class DataConfig:
    path: Path
    target: str = "y"
    id_column: str | None = "id"
    test_share: float = 0.2
    factor: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.test_share < 0.5:
            raise ValueError(f"test_share must be in (0, 0.5), got {self.test_share}")


def models() -> Mapping[str, ModelSpec]:
    return {
        "Tokens": ModelSpec(
            "Tokens",
            f"{_HERE}:Tokens",
            "regress",
            "none",
            "Attention over the features of a row.",
            "softmax",
            {"learning_rate": 0.01},
        ),
        "Line": ModelSpec(
            "Line", f"{_HERE}:Line", "regress", "Gauss (1809)", "Linear regression.", None
        ),
    }


def write_sample(out: Path, *, seed: int) -> list[Path]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(120, 3)).round(4)
    y = x @ [1.0, -2.0, 0.5] + 0.1 * rng.normal(size=120)
    frame = pd.DataFrame(x, columns=["a", "b", "c"]).assign(y=y.round(4))
    frame.insert(0, "id", np.arange(1000, 1120))
    frame.to_csv(out / "rows.csv", index=False)
    return [out / "rows.csv"]


def check(data: DataConfig) -> list[Problem]:
    try:
        frame = pd.read_csv(data.path)
    except (OSError, ValueError) as error:
        return [Problem("error", str(data.path), f"cannot be read ({error})", "give a CSV file")]
    problems = []
    if data.target not in frame:
        what = f"no column {data.target!r}"
        problems.append(Problem("error", str(data.path), what, "set data.target"))
    for column in frame.columns.difference([data.id_column or ""]):
        values = pd.to_numeric(frame[column], errors="coerce")
        for row in np.flatnonzero(~np.isfinite(values)):
            where = f"{data.path}, row {row + 2}, column {column}"
            what = f"{frame[column].iloc[row]!r} is no finite number"
            problems.append(Problem("error", where, what, "correct or remove the row"))
        if values.nunique() == 1:
            what = f"column {column} is constant"
            problems.append(Problem("warning", str(data.path), what, "it carries no information"))
    return problems


@dataclass(frozen=True)
class Rows:
    x: np.ndarray
    y: np.ndarray
    ids: np.ndarray

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, indices: np.ndarray) -> dict[str, Tensor]:
        import torch

        return {
            "x": torch.from_numpy(self.x[indices]).float(),
            "y": torch.from_numpy(self.y[indices]).float(),
        }


def prepare(
    data: DataConfig,
    *,
    spec: ModelSpec,
    seed: int,
    preprocessing: Mapping[str, Any] | None = None,
) -> Prepared:
    content = data.path.read_bytes()
    frame = pd.read_csv(io.BytesIO(content))
    columns = [c for c in frame.columns if c not in (data.target, data.id_column)]
    x, y = frame[columns].to_numpy(np.float64), frame[data.target].to_numpy(np.float64)
    test = int(len(frame) * data.test_share)
    borders = [0, len(frame) - 2 * test, len(frame) - test, len(frame)]
    state = preprocessing or {
        "columns": columns,
        "target": data.target,
        "id_column": data.id_column,
        "mean": x[: borders[1]].mean(0).tolist(),
        "std": x[: borders[1]].std(0).tolist(),
        "target_mean": float(y[: borders[1]].mean()),
    }
    scaled = (x - state["mean"]) / state["std"] if len(columns) == len(state["mean"]) else x
    ids = frame[data.id_column].to_numpy() if data.id_column else np.arange(len(frame))
    parts = [Rows(scaled[a:b], y[a:b], ids[a:b]) for a, b in itertools.pairwise(borders)]
    return Prepared(
        *parts,
        model_arguments={"features": len(columns)},
        preprocessing=state,
        data_hash=hashlib.sha256(content).hexdigest(),
        summary={"rows": len(frame), "columns": columns, "training rows": borders[1]},
    )


def make_task(model: nn.Module, prepared: Prepared, training: TrainingConfig) -> Task:
    from tests.shared_runtime.toy_domain.models import Regression

    return Regression(model, training)


def calibrate(
    model: nn.Module, prepared: Prepared, *, batch_size: int, device: torch.device
) -> Mapping[str, Any]:
    predicted = _apply(model, prepared.val, device)
    return {"offset": float((prepared.val.y - predicted).mean())}


def evaluate(
    loaded: LoadedModel,
    prepared: Prepared,
    split: str,
    *,
    batch_size: int,
    device: torch.device,
    seed: int,
) -> Evaluation:
    from matplotlib.figure import Figure as MatplotlibFigure

    from shared_runtime.charts import style
    from shared_runtime.intervals import mean_interval

    rows = getattr(prepared, split)
    predicted = _apply(loaded.model, rows, device) + loaded.preprocessing["offset"]
    with style():
        figure = MatplotlibFigure(figsize=(7.2, 3.4))
        axes = figure.subplots()
        axes.scatter(rows.y, predicted, s=14)
        axes.axline((0, 0), slope=1, color="#33404d", linewidth=0.8)
        axes.set_xlabel("measured")
        axes.set_ylabel("predicted")
    error = predicted - rows.y
    return Evaluation(
        metrics={
            "mse": mean_interval(error**2, seed=seed),
            "mae": mean_interval(np.abs(error), seed=seed),
        },
        n_scored=len(rows),
        predictions=pd.DataFrame({"id": rows.ids, "y": rows.y, "predicted": predicted}),
        figures=[Figure("Predicted against measured", "One dot per row; <b>escaped</b>.", figure)],
        tables={"Largest errors": pd.DataFrame({"id": rows.ids, "error": error}).head(5)},
    )


def baselines(prepared: Prepared, split: str) -> Mapping[str, Mapping[str, float]]:
    rows = getattr(prepared, split)
    error = rows.y - prepared.preprocessing["target_mean"]
    return {"mean": {"mse": float((error**2).mean()), "mae": float(np.abs(error).mean())}}


def items(folder: Path, pattern: str) -> list[Path]:
    return files_in(folder, pattern)


def item_files(item: Path) -> list[Path]:
    return [item]


def predict(
    loaded: LoadedModel, source: Path, *, data: DataConfig, batch_size: int, device: torch.device
) -> Prediction:
    state = loaded.preprocessing
    try:
        frame = pd.read_csv(source)
    except ValueError as error:
        raise DataError(f"{source}: cannot be read: {error}") from error
    missing = [column for column in state["columns"] if column not in frame]
    if missing:
        raise DataError(f"{source}: no column {', '.join(missing)}")
    x = (frame[state["columns"]].to_numpy(np.float64) - state["mean"]) / state["std"]
    rows = Rows(x, np.zeros(len(x)), np.zeros(len(x)))
    out = frame[[state["id_column"]]].copy()
    out = out.assign(predicted=_apply(loaded.model, rows, device) + state["offset"])
    text = f"{out['predicted'].mean() * data.factor:.6f}\n"
    return Prediction(out, {f"{source.stem}.mean": lambda path: path.write_text(text) and None})


def explain(
    loaded: LoadedModel, prepared: Prepared, *, device: torch.device
) -> tuple[list[Figure], Mapping[str, pd.DataFrame]]:
    import torch
    from matplotlib.figure import Figure as MatplotlibFigure

    from shared_runtime.charts import SEQUENTIAL, style

    if loaded.spec.attention is None:
        raise UsageError(f"{loaded.spec.name} has no attention")
    q, k, _ = loaded.model.heads(prepared.test.batch(np.arange(4))["x"].to(device))
    identity = torch.eye(k.shape[2]).expand(4, k.shape[1], -1, -1)
    names = prepared.preprocessing["columns"]
    with torch.inference_mode():
        weights = loaded.model.attention(q, k, identity).mean((0, 1)).numpy()
    with style():
        figure = MatplotlibFigure(figsize=(4, 3))
        axes = figure.subplots()
        axes.imshow(weights, cmap=SEQUENTIAL)
        axes.set_xticks(range(len(names)), names)
        axes.set_yticks(range(len(names)), names)
        axes.grid(False)
    table = pd.DataFrame(weights, columns=names)
    return [Figure("Attention between features", "Mean over rows.", figure)], {"Weights": table}


def example_inputs(arguments: Mapping[str, Any], batch_size: int) -> dict[str, Tensor]:
    import torch

    features = arguments["features"]
    generator = torch.Generator().manual_seed(0)
    return {"x": torch.randn(batch_size, features, generator=generator)}


def _apply(model: nn.Module, rows: Rows, device: torch.device) -> np.ndarray:
    import torch

    batch = rows.batch(np.arange(len(rows)))
    with torch.inference_mode():
        return model(batch["x"].to(device)).cpu().double().numpy()

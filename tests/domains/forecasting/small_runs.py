"""Small data files and small models for the tests of forecasting runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd

from domains.forecasting import domain as forecasting
from shared_runtime.building import build
from shared_runtime.domain import Domain, LoadedModel, Prepared
from shared_runtime.options import RunConfig, find_model, model_arguments, resolve

DOMAIN = cast(Domain, forecasting)
LOOKBACK, HORIZON = 24, 12
CLASSIFIERS = [spec.name for spec in DOMAIN.models().values() if spec.task == "classify"]
FORECASTERS = [spec.name for spec in DOMAIN.models().values() if spec.task == "forecast"]
_SIZES = {
    "d_model": 8,
    "num_heads": 2,
    "d_ff": 8,
    "layers": 1,
    "encoder_layers": 1,
    "decoder_layers": 1,
}


def wide_table(times: pd.DatetimeIndex, channels: int = 3, seed: int = 0) -> pd.DataFrame:
    """A daily shape with noise, of its own level in each channel; times as ISO text."""
    rng = np.random.default_rng(seed)
    steps = np.arange(len(times))[:, None]
    phase, level = rng.uniform(0, 6, channels), rng.uniform(10, 50, channels)
    values = (
        level + 5 * np.sin(2 * np.pi * steps / 24 + phase) + rng.normal(size=(len(times), channels))
    )
    text = times.tz_localize(None).strftime("%Y-%m-%d %H:%M:%S")
    return pd.DataFrame({"date": text, **{f"c{n}": values[:, n].round(4) for n in range(channels)}})


def long_table(lengths: dict[str, int], seed: int = 0) -> pd.DataFrame:
    """Daily series that end on the same day, with a promotion that doubles them."""
    frames = []
    for number, (name, days) in enumerate(lengths.items()):
        rng = np.random.default_rng([seed, number])
        promotion = (rng.random(days) < 0.2).astype(int)
        date = pd.date_range(end="2024-06-30", periods=days, freq="D")
        week = 1 + 0.3 * np.sin(2 * np.pi * date.dayofweek / 7)
        y = rng.uniform(5, 90) * (1 + promotion) * week + rng.normal(size=days)
        frame = pd.DataFrame({"ds": date.strftime("%Y-%m-%d"), "y": y.round(4)})
        frame["promotion"] = promotion
        frame.insert(0, "unique_id", name)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def write(frame: pd.DataFrame, path: Path) -> Path:
    frame.to_csv(path, index=False)
    return path


def configuration(data: Path, model: str, sets: Sequence[str] = ()) -> RunConfig:
    """A small model of few features, trained for one epoch."""
    spec = find_model(DOMAIN, model)
    known = model_arguments(spec)
    settings = [f"model.{name}={value}" for name, value in _SIZES.items() if name in known]
    if spec.task == "forecast":
        settings += [f"data.lookback={LOOKBACK}", f"data.horizon={HORIZON}"]
    settings += ["device=cpu", "training.epochs=1", "training.learning_rate=0.01", *sets]
    return resolve(DOMAIN, flags={"data.path": data, "model.name": model}, sets=settings)


def untrained(
    data: Path, model: str = "InvertedTransformer", sets: Sequence[str] = ()
) -> tuple[LoadedModel, Prepared]:
    """The model of a run and its data, as they are before the first step of training."""
    config = configuration(data, model, sets)
    spec = find_model(DOMAIN, model)
    prepared = DOMAIN.prepare(config.data, spec=spec, seed=0)
    built = build(spec, config, prepared.model_arguments)
    built.model.eval()
    loaded = LoadedModel(spec, built.model, built.arguments, prepared.preprocessing, data.parent)
    return loaded, prepared

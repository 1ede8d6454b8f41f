"""Forecasts past the end of a file, for every series in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from domains.forecasting.data.config import DataConfig
from domains.forecasting.data.panel import Panel
from domains.forecasting.data.reading import require_panel
from domains.forecasting.data.scaling import make_scaler
from domains.forecasting.data.windows import WindowSet, build_store
from domains.forecasting.inference import calibrated, forecast_batches
from domains.forecasting.tables import forecast_table
from shared_runtime.domain import LoadedModel
from shared_runtime.errors import DataError


def predict(
    loaded: LoadedModel, source: Path, *, batch_size: int, device: torch.device
) -> pd.DataFrame:
    """Forecast the steps after the end of every series of a file.

    For models with known future covariates, rows at the end of a series whose targets are all
    empty are its horizon and give the covariates. Ids and timestamps are those of the file.
    """
    state = loaded.preprocessing
    config = prediction_config(state, source)
    panel = require_panel(config)
    lengths = _observed_lengths(panel)
    _check_covariates(panel, lengths, config)
    scaler = make_scaler(panel, lengths, config.scale, state)
    store = build_store(
        _extended(panel, lengths, config.horizon),
        scaler,
        pad=config.lookback,
        carry_forward=config.missing == "forward_fill",
    )
    windows = WindowSet(store, np.arange(len(panel)), lengths, config.lookback, config.horizon)
    if panel.layout == "wide" and lengths[0] < config.lookback:
        raise DataError(
            f"{source}: {lengths[0]} rows, the model looks back {config.lookback}; give more rows"
        )
    parts = [
        calibrated(forecast, state)
        for _, _, forecast in forecast_batches(
            loaded.model, windows, batch_size=batch_size, device=device
        )
    ]
    return forecast_table(windows, np.concatenate(parts), state["quantiles"], truth=False)


def prediction_config(state: Mapping[str, Any], source: Path) -> DataConfig:
    """Return how a trained model reads a file: as it read its training file."""
    reading: dict[str, Any] = {
        f.name: tuple(value) if isinstance(value, list) else value
        for f in fields(DataConfig)
        if (value := state["reading"].get(f.name)) is not None
    }
    reading["targets"] = tuple(state["channels"])
    reading["frequency"] = state["frequency"]
    return DataConfig(
        path=source,
        lookback=state["lookback"],
        horizon=state["horizon"],
        quantiles=tuple(state["quantiles"]),
        **reading,
    )


def _observed_lengths(panel: Panel) -> np.ndarray:
    observed = ~np.isnan(panel.values).all(axis=1)
    lengths = []
    for start, stop in zip(panel.offsets[:-1], panel.offsets[1:], strict=True):
        seen = np.flatnonzero(observed[start:stop])
        lengths.append(int(seen[-1]) + 1 if len(seen) else 0)
    empty = [name for name, length in zip(panel.ids, lengths, strict=True) if not length]
    if empty:
        raise DataError(f"series {empty[0]!r} has no observed value; remove it")
    return np.array(lengths, dtype=np.int64)


def _check_covariates(panel: Panel, lengths: np.ndarray, config: DataConfig) -> None:
    short = panel.lengths - lengths < config.horizon
    if config.future_covariates and short.any():
        name = panel.ids[int(np.flatnonzero(short)[0])]
        raise DataError(
            f"{config.path}: series {name!r} has fewer than {config.horizon} rows of "
            f"{', '.join(config.future_covariates)} after its last observed value; add rows with "
            "the covariates and empty targets"
        )


def _extended(panel: Panel, lengths: np.ndarray, horizon: int) -> Panel:
    """Return the panel with each series cut or extended to its observed rows plus the horizon."""
    columns: dict[str, list[np.ndarray]] = {"values": [], "past": [], "future": [], "times": []}
    for series, length in enumerate(lengths):
        start = int(panel.offsets[series])
        have = min(int(panel.lengths[series]), int(length) + horizon)
        missing = int(length) + horizon - have
        rows = slice(start, start + have)
        times = panel.times[rows]
        if missing:
            times = np.concatenate([times, panel.future_times(series, missing)])
        columns["times"].append(times)
        for name, source in (
            ("values", panel.values),
            ("past", panel.past_covariates),
            ("future", panel.future_covariates),
        ):
            columns[name].append(np.pad(source[rows], ((0, missing), (0, 0))))
    return replace(
        panel,
        values=np.concatenate(columns["values"]),
        past_covariates=np.concatenate(columns["past"]),
        future_covariates=np.concatenate(columns["future"]),
        times=np.concatenate(columns["times"]),
        offsets=np.r_[0, np.cumsum(lengths + horizon)].astype(np.int64),
    )

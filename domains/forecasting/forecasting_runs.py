"""Forecasting runs: windows from a file, and scores of a model and its baselines."""

from __future__ import annotations

import hashlib
import inspect
import textwrap
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from domains.forecasting.backtest import backtest_table
from domains.forecasting.baselines import (
    Forecaster,
    batches,
    fit_ridge,
    repeat_last,
    seasonal_naive,
)
from domains.forecasting.conformal import conformal_offsets
from domains.forecasting.data.calendar import phase_levels
from domains.forecasting.data.config import DataConfig
from domains.forecasting.data.frequency import season_of
from domains.forecasting.data.reading import require_panel
from domains.forecasting.data.scaling import make_scaler
from domains.forecasting.data.splits import resolve_split, split_panel
from domains.forecasting.data.windows import Store, WindowSet, build_store, training_windows
from domains.forecasting.figures import evaluation_figures
from domains.forecasting.inference import calibrated, forecast_batches, observed_targets
from domains.forecasting.metrics import (
    NaiveScales,
    Scores,
    central_pairs,
    coverage_name,
    naive_scales,
    values_only,
)
from domains.forecasting.statistical import statistical_baselines
from domains.forecasting.tables import forecast_table
from shared_runtime.domain import Evaluation, LoadedModel, ModelSpec, Prepared
from shared_runtime.errors import UsageError

_READING = ("format", "targets", "past_covariates", "future_covariates", "frequency", "timezone")
_REPAIRS = ("missing", "gaps", "duplicates", "unsorted", "scale")
_SAVED_WINDOWS = 200
_MOST_CUTOFFS = 200


def prepare(data: DataConfig, spec: ModelSpec, preprocessing: Mapping[str, Any] | None) -> Prepared:
    """Read a panel, split it, standardise it and index its windows.

    With the `preprocessing` of a trained model, series it knows keep the scaler of training;
    series it does not know are standardised by their own training rows.
    """
    panel, split = split_panel(require_panel(data), data)
    scaler = make_scaler(panel, split.train_stop, data.scale, preprocessing)
    store = build_store(
        panel,
        scaler,
        pad=data.lookback if panel.layout == "long" else 0,
        carry_forward=data.missing == "forward_fill",
    )
    train = training_windows(store, split.train_stop, data.lookback, data.horizon)
    val, test = (
        _compatible(
            WindowSet(store, *part, data.lookback, data.horizon), data.drop_last_compat, name
        )
        for name, part in (("validation", split.val), ("test", split.test))
    )
    season = data.season or season_of(panel.frequency)
    arguments = {
        "lookback": data.lookback,
        "horizon": data.horizon,
        "channels": len(panel.channels),
        "time_features": store.time.shape[1],
        "outputs": max(1, len(data.quantiles)),
        "past_covariates": store.covariates.shape[1],
        "future_covariates": panel.future_covariates.shape[1],
        "season": phase_levels(panel.frequency),
    }
    taken = inspect.signature(spec.load()).parameters
    return Prepared(
        train=train,
        val=val,
        test=test,
        model_arguments={name: value for name, value in arguments.items() if name in taken},
        preprocessing={
            "ids": list(panel.ids),
            "channels": list(panel.channels),
            "frequency": panel.frequency,
            "scaler": scaler.to_json(),
            "quantiles": list(data.quantiles),
            "lookback": data.lookback,
            "horizon": data.horizon,
            "season": season,
            "train_stop": split.train_stop.tolist(),
            "reading": {name: getattr(data, name) for name in _READING + _REPAIRS},
        },
        data_hash=hashlib.sha256(data.path.read_bytes()).hexdigest(),
        summary={
            "file": data.path.name,
            "series": len(panel),
            "channels": textwrap.shorten(", ".join(panel.channels), 120),
            "frequency": panel.frequency,
            "from": str(panel.local_times().min()),
            "to": str(panel.local_times().max()),
            "split": resolve_split(panel, data),
            "look-back / horizon": f"{data.lookback} / {data.horizon}",
            "training / validation / test windows": f"{len(train)} / {len(val)} / {len(test)}",
        },
    )


def _compatible(windows: WindowSet, batch: int, part: str) -> WindowSet:
    """Leave out the last partial batch of the part, as published code does; 0 leaves out none."""
    if not batch:
        return windows
    kept = len(windows) // batch * batch
    if not kept:
        raise UsageError(
            f"data.drop_last_compat={batch}: the {part} part has {len(windows)} windows, less than "
            "one batch; choose a smaller one"
        )
    return replace(windows, series=windows.series[:kept], cutoffs=windows.cutoffs[:kept])


def calibrate(
    model: nn.Module, prepared: Prepared, *, batch_size: int, device: torch.device
) -> Mapping[str, Any]:
    """Return conformal offsets of quantile forecasts, from validation windows."""
    quantiles = prepared.preprocessing["quantiles"]
    if not central_pairs(quantiles):
        return {}
    windows = _windows(prepared, "val")
    forecasts, targets, counted = [], [], []
    for _, batch, forecast in forecast_batches(
        model, windows, batch_size=batch_size, device=device
    ):
        forecasts.append(forecast)
        targets.append(batch["future"].numpy())
        counted.append(observed_targets(batch))
    return {
        "conformal_offsets": conformal_offsets(
            np.concatenate(forecasts), np.concatenate(targets), np.concatenate(counted), quantiles
        )
    }


def evaluate(
    loaded: LoadedModel,
    prepared: Prepared,
    split: str,
    *,
    batch_size: int,
    device: torch.device,
    seed: int,
) -> Evaluation:
    """Score every window; keep forecasts of windows that do not overlap.

    For quantile forecasts the table `coverage` shows nominal and empirical coverage before and
    after calibration.
    """
    windows = _windows(prepared, split)
    state = loaded.preprocessing
    scores, raw = _scores(prepared, state["quantiles"]), _scores(prepared, state["quantiles"])
    shown = _shown(windows)
    kept: dict[int, np.ndarray] = {}
    for indices, batch, forecast in forecast_batches(
        loaded.model, windows, batch_size=batch_size, device=device
    ):
        final = calibrated(forecast, state)
        target, observed = batch["future"].numpy(), observed_targets(batch)
        series = windows.series[indices]
        scores.add(final, target, observed, series)
        if state["quantiles"]:
            raw.add(forecast, target, observed, series)
        kept |= {int(i): final[i - indices[0]] for i in np.intersect1d(indices, shown)}
    metrics = scores.metrics(block=_overlap(windows), seed=seed)
    stacked = np.stack([kept[int(i)] for i in shown])
    chosen = replace(windows, series=windows.series[shown], cutoffs=windows.cutoffs[shown])
    tables = {}
    if central_pairs(state["quantiles"]):
        before = raw.metrics(block=_overlap(windows), seed=seed)
        tables["coverage"] = pd.DataFrame(
            {
                "nominal": nominal,
                "as trained": before[coverage_name(nominal)].value,
                "calibrated on validation": metrics[coverage_name(nominal)].value,
            }
            for _, _, nominal in central_pairs(state["quantiles"])
        )
    backtest = backtest_table(windows, scores)
    if 1 < len(backtest) <= _MOST_CUTOFFS:
        tables["backtest"] = backtest
    return Evaluation(
        metrics=metrics,
        n_scored=scores.windows,
        predictions=forecast_table(chosen, stacked, state["quantiles"]),
        figures=evaluation_figures(chosen, stacked, state["quantiles"], scores.by_step()),
        tables=tables,
    )


def baselines(prepared: Prepared, split: str) -> dict[str, dict[str, float]]:
    """Score repeat, seasonal naive, ridge and, where installed, AutoETS and AutoTheta."""
    windows = _windows(prepared, split)
    season = prepared.preprocessing["season"]
    forecasters: dict[str, Forecaster] = {"repeat": repeat_last}
    if 1 < season <= windows.lookback:
        forecasters[f"seasonal naive ({season})"] = lambda batch: seasonal_naive(batch, season)
    forecasters["ridge"] = fit_ridge(_windows(prepared, "train"), _windows(prepared, "val"))
    results = {}
    for name, forecaster in forecasters.items():
        scores = _scores(prepared, ())
        for indices, batch in batches(windows):
            forecast = forecaster(batch).unsqueeze(-1).numpy()
            scores.add(
                forecast, batch["future"].numpy(), observed_targets(batch), windows.series[indices]
            )
        results[name] = values_only(scores.metrics(block=len(windows), seed=0))
    for name, forecast in statistical_baselines(windows, season).items():
        scores = _scores(prepared, ())
        batch = windows.batch(np.arange(len(windows)))
        scores.add(forecast, batch["future"].numpy(), observed_targets(batch), windows.series)
        results[name] = values_only(scores.metrics(block=len(windows), seed=0))
    return results


def _windows(prepared: Prepared, split: str) -> WindowSet:
    windows = getattr(prepared, split)
    if not isinstance(windows, WindowSet):
        raise UsageError("these data are labelled series; choose a model that classifies")
    return windows


def _scores(prepared: Prepared, quantiles: list[float] | tuple[()]) -> Scores:
    store: Store = _windows(prepared, "test").store
    return Scores(store.scaler, _naive(store, prepared), quantiles)


def _naive(store: Store, prepared: Prepared) -> NaiveScales:
    starts = store.panel.offsets[:-1]
    stops = starts + np.asarray(prepared.preprocessing["train_stop"])
    return naive_scales(store.panel.values, starts, stops, prepared.preprocessing["season"])


def _overlap(windows: WindowSet) -> int:
    """Neighbouring windows of one series whose targets overlap; 1 where none do."""
    same = np.flatnonzero(np.diff(windows.series) == 0)
    if not len(same):
        return 1
    step = int(np.diff(windows.cutoffs)[same[0]])
    return -(-windows.horizon // step)


def _shown(windows: WindowSet) -> np.ndarray:
    """Windows that do not overlap, spread over the part, the last of each series among them."""
    last = np.searchsorted(windows.series, windows.series, side="right") - 1
    chosen = np.flatnonzero((last - np.arange(len(windows))) % _overlap(windows) == 0)
    if len(chosen) > _SAVED_WINDOWS:
        chosen = chosen[np.linspace(0, len(chosen) - 1, _SAVED_WINDOWS).astype(int)]
    return chosen

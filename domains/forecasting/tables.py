"""Forecasts as tables, with the ids, times and columns of the file they are for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from domains.forecasting.data.panel import Panel
from domains.forecasting.data.windows import WindowSet


def forecast_table(
    windows: WindowSet, forecast: np.ndarray, quantiles: Sequence[float], *, truth: bool = True
) -> pd.DataFrame:
    """Return forecasts on the original scale, one row per window and step.

    A wide file gives its time column and a column for each channel (and quantile, as
    `name-q0.1`); a long file gives `unique_id, ds` and `forecast` (or `forecast-q0.1`). With
    `truth`, `cutoff` is the last time before the forecast, and `name-true` or `y` what came.

    Args:
        windows: N windows.
        forecast: standardised `[N, H, C, Q]`.
        quantiles: levels of the outputs; empty for a point forecast.
        truth: add the cut-off and the observed values.
    """
    panel, horizon = windows.store.panel, windows.horizon
    first = panel.offsets[windows.series] + windows.cutoffs
    rows = (first[:, None] + np.arange(horizon)).ravel()
    original = windows.store.scaler.inverse(forecast.astype(np.float64), windows.series)
    flat = original.reshape(len(rows), len(panel.channels), -1)
    times = written_times(panel, rows)
    columns: dict[str, object] = {}
    if panel.layout == "long":
        columns["unique_id"] = np.repeat(np.asarray(panel.ids)[windows.series], horizon)
    columns[panel.time_column] = times
    if truth:
        last = written_times(panel, first - 1)
        columns["cutoff"] = np.repeat(last, horizon)
    for number, channel in enumerate(panel.channels):
        name = "forecast" if panel.layout == "long" else channel
        if len(panel.channels) > 1 and panel.layout == "long":
            name = f"forecast-{channel}"
        if truth:
            seen = channel if panel.layout == "long" else f"{channel}-true"
            columns[seen] = panel.values[rows, number]
        if quantiles:
            for place, level in enumerate(quantiles):
                columns[f"{name}-q{level:g}"] = flat[:, number, place]
        else:
            columns[name] = flat[:, number, 0]
    return pd.DataFrame(columns)


def written_times(panel: Panel, rows: np.ndarray) -> np.ndarray:
    """Return the times of rows as text: dates where no row of the panel has a time of day.

    Times in a zone are written with their offset, which tells the repeated hour of autumn apart.
    """
    times = panel.local_times(panel.times[rows])
    if times.tz is not None:
        return np.array([time.isoformat(sep=" ") for time in times])
    every = panel.local_times()
    whole_days = bool((every == every.normalize()).all())
    return times.strftime("%Y-%m-%d" if whole_days else "%Y-%m-%d %H:%M:%S").to_numpy()

"""Statistical baselines for many series, where `statsforecast` is installed."""

from __future__ import annotations

import importlib.util
import warnings

import numpy as np
import pandas as pd

from domains.forecasting.data.windows import WindowSet

_MOST_WINDOWS = 200
_MOST_OBSERVATIONS = 1000


def statistical_baselines(windows: WindowSet, season: int) -> dict[str, np.ndarray]:
    """Return AutoETS and AutoTheta forecasts, standardised `[N, H, 1, 1]`, by name.

    Each window is forecast from the last 1,000 values of its series before the cut-off. Empty for
    wide tables and several targets, for more than 200 windows (a model is fitted for each), and
    where statsforecast (`pip install 'heed[stats]'`) is missing.
    """
    panel = windows.store.panel
    absent = importlib.util.find_spec("statsforecast") is None
    one = panel.layout == "long" and len(panel.channels) == 1
    if absent or not one or len(windows) > _MOST_WINDOWS:
        return {}
    from statsforecast import StatsForecast
    from statsforecast.models import AutoETS, AutoTheta, Naive

    frames = []
    for number, (series, cutoff) in enumerate(zip(windows.series, windows.cutoffs, strict=True)):
        start = panel.offsets[series]
        first = start + max(0, cutoff - _MOST_OBSERVATIONS)
        values = pd.Series(panel.values[first : start + cutoff, 0]).ffill().bfill().fillna(0.0)
        steps = np.arange(len(values))
        frames.append(pd.DataFrame({"unique_id": f"{number:06d}", "ds": steps, "y": values}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        models = [AutoETS(season_length=season), AutoTheta(season_length=season)]
        engine = StatsForecast(models=models, freq=1, fallback_model=Naive())
        forecast = engine.forecast(df=pd.concat(frames), h=windows.horizon)
    scaler = windows.store.scaler
    result = {}
    for name in ("AutoETS", "AutoTheta"):
        column = forecast.sort_values(["unique_id", "ds"])[name].to_numpy()
        grid = column.reshape(len(windows), windows.horizon, 1, 1)
        mean, std = scaler.mean[windows.series, 0], scaler.std[windows.series, 0]
        result[name] = (grid - mean[:, None, None, None]) / std[:, None, None, None]
    return result

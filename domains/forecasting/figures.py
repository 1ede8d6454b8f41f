"""Pictures of forecasts and of what a forecaster looks at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure as MatplotlibFigure

from domains.forecasting.data.windows import WindowSet
from domains.forecasting.metrics import central_pairs, median_index
from shared_runtime.charts import INK, PALETTE, SEQUENTIAL, style
from shared_runtime.domain import Figure

_PANELS = 6
_LABELS = 12


def evaluation_figures(
    windows: WindowSet, forecast: np.ndarray, quantiles: Sequence[float], by_step: np.ndarray
) -> list[Figure]:
    """Draw forecasts beside truth, and the error of each step.

    Args:
        windows: the windows shown, N.
        forecast: standardised `[N, H, C, Q]`.
        quantiles: levels of the outputs.
        by_step: `[H]` mean absolute standardised error.
    """
    return [_examples(windows, forecast, quantiles), _error_by_step(by_step)]


def _examples(windows: WindowSet, forecast: np.ndarray, quantiles: Sequence[float]) -> Figure:
    panel = windows.store.panel
    if panel.layout == "long":
        chosen = np.unique(windows.series, return_index=True)[1][:_PANELS]
        places = [(int(n), 0, panel.ids[windows.series[n]]) for n in chosen]
    else:
        middle = len(windows) // 2
        places = [(middle, c, name) for c, name in enumerate(panel.channels[:_PANELS])]
    original = windows.store.scaler.inverse(forecast.astype(np.float64), windows.series)
    point = median_index(quantiles)
    rows = -(-len(places) // 2)
    with style():
        figure = MatplotlibFigure(figsize=(7.2, 1.9 * rows + 0.5))
        grid = figure.subplots(rows, 2 if len(places) > 1 else 1, squeeze=False)
        for axes in grid.flat[len(places) :]:
            axes.set_visible(False)
        for axes, (n, channel, name) in zip(grid.flat, places, strict=False):
            start = panel.offsets[windows.series[n]]
            cutoff = int(windows.cutoffs[n])
            shown = min(windows.lookback, cutoff, max(2 * windows.horizon, 48))
            rows_before = np.arange(start + cutoff - shown, start + cutoff)
            rows_after = np.arange(start + cutoff, start + cutoff + windows.horizon)
            before = panel.local_times(panel.times[rows_before]).tz_localize(None)
            after = panel.local_times(panel.times[rows_after]).tz_localize(None)
            axes.plot(before, panel.values[rows_before, channel], color=INK, linewidth=1.1)
            axes.plot(after, panel.values[rows_after, channel], color=INK, linewidth=1.1)
            for low, high, nominal in central_pairs(quantiles):
                axes.fill_between(
                    after,
                    original[n, :, channel, low],
                    original[n, :, channel, high],
                    color=PALETTE[0],
                    alpha=0.15 + 0.2 * (1 - nominal),
                    linewidth=0,
                )
            axes.plot(after, original[n, :, channel, point], color=PALETTE[1])
            axes.axvline(after[0], color=INK, linewidth=0.7, linestyle=(0, (2, 3)))
            axes.set_title(name or "value")
            locator = AutoDateLocator(minticks=3, maxticks=5)
            axes.xaxis.set_major_locator(locator)
            axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    bands = ", ".join(f"{100 * nominal:g} %" for _, _, nominal in central_pairs(quantiles))
    caption = "Observed (dark) and forecast (orange) from the dashed line on"
    caption += f", with the {bands} intervals." if bands else "."
    return Figure("Forecasts beside what came", caption, figure)


def _error_by_step(by_step: np.ndarray) -> Figure:
    with style():
        figure = MatplotlibFigure(figsize=(7.2, 2.6))
        axes = figure.subplots()
        axes.plot(np.arange(1, len(by_step) + 1), by_step)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("steps ahead")
        axes.set_ylabel("mean absolute error, standardised")
    return Figure(
        "Error by horizon", "Mean absolute error of each step, over all scored windows.", figure
    )


def lag_figure(sensitivity: np.ndarray, channels: Sequence[str]) -> Figure:
    """Draw how much each look-back value moves the forecast.

    Args:
        sensitivity: `[L, C]`, from `domains.forecasting.sensitivity.lag_sensitivity`.
        channels: names, C.
    """
    lags = np.arange(-len(sensitivity), 0)
    with style():
        figure = MatplotlibFigure(figsize=(7.2, 2.8))
        axes = figure.subplots()
        for channel, name in enumerate(channels[: len(PALETTE)]):
            axes.plot(lags, sensitivity[:, channel], linewidth=0.9, alpha=0.75, label=name)
        if sensitivity.shape[1] > 1:
            axes.plot(lags, sensitivity.mean(1), color=INK, linewidth=1.8, label="mean of all")
            axes.legend(loc="upper left", ncols=3)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("steps before the forecast")
        axes.set_ylabel("effect on the forecast")
    return Figure(
        "Lag importance",
        "Root-mean-square change of the forecast, per unit change of each look-back value "
        "(standardised units).",
        figure,
    )


def attention_figure(
    name: str, weights: np.ndarray, queries: Sequence[str], keys: Sequence[str]
) -> Figure:
    """Draw the attention matrix of one layer, averaged over heads and windows.

    Args:
        name: of the layer.
        weights: `[L, S]`.
        queries: row names; drawn where they are few.
        keys: column names.
    """
    largest = float(np.abs(weights).max()) or 1.0
    with style():
        figure = MatplotlibFigure(figsize=(5.4, 4.4))
        axes = figure.subplots()
        axes.grid(False)
        negative = weights.min() < -1e-6 * largest
        image = axes.imshow(
            weights,
            aspect="auto",
            cmap="RdBu_r" if negative else SEQUENTIAL,
            vmin=-largest if negative else 0.0,
            vmax=largest,
            interpolation="nearest",
        )
        for axis, names in ((axes.yaxis, queries), (axes.xaxis, keys)):
            if len(names) <= _LABELS:
                axis.set_ticks(range(len(names)), labels=names)
        if len(keys) <= _LABELS:
            axes.tick_params(axis="x", rotation=45)
        axes.set_ylabel("from")
        axes.set_xlabel("to")
        bar = figure.colorbar(image, ax=axes, shrink=0.85)
        bar.outline.set_visible(False)
    return Figure(
        f"Attention of {name}",
        "Effective attention matrix, mean over heads and windows; each row says what one token "
        "takes from which.",
        figure,
    )

"""Where training, validation and test lie in each series."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from domains.forecasting.data.config import DataConfig
from domains.forecasting.data.panel import Panel
from shared_runtime.errors import DataError

_MONTH = 30 * 24
_PUBLISHED = {"ett_hour": (1, "h"), "ett_minute": (4, "15min")}


@dataclass(frozen=True)
class Split:
    """Cut-offs of the three parts.

    A cut-off is the place in its series of the first step to forecast. Validation and test
    windows look back into the part before, as published protocols do; their targets never do.
    """

    train_stop: np.ndarray
    """int64 `[S]`: training uses the first `train_stop[s]` rows of series s."""
    val: tuple[np.ndarray, np.ndarray]
    """Series and cut-off of every validation window, int64 `[N]` each."""
    test: tuple[np.ndarray, np.ndarray]


def split_panel(panel: Panel, config: DataConfig) -> tuple[Panel, Split]:
    """Return the panel that is split, and its split.

    Rows after the last observed target, and series too short where they are to be dropped, are
    not in it.

    Raises:
        DataError: a series is too short for the split, the look-back and the horizon.
    """
    panel = without_horizon(panel)
    kind = resolve_split(panel, config)
    if kind == "tail":
        return _tail(panel, config)
    if len(panel) != 1:
        raise DataError(
            f"{config.path}: data.split={kind} is for one wide table, this file has "
            f"{len(panel)} series; use data.split=tail"
        )
    length = int(panel.lengths[0])
    if kind in _PUBLISHED:
        per_hour, frequency = _PUBLISHED[kind]
        if panel.frequency != frequency:
            raise DataError(
                f"{config.path}: data.split={kind} is for steps of {frequency}, this file has "
                f"{panel.frequency}; use data.split=fractions"
            )
        unit = per_hour * _MONTH
        borders = (12 * unit, 16 * unit, 20 * unit)
    else:
        train, test = int(length * config.train_fraction), int(length * config.test_fraction)
        borders = (train, length - test, length)
    shortest = min(borders[0] - config.lookback, borders[1] - borders[0], borders[2] - borders[1])
    if borders[2] > length or shortest < config.horizon:
        raise DataError(
            f"{config.path}: {length} rows are too few for data.split={kind} with look-back "
            f"{config.lookback} and horizon {config.horizon}; shorten them or use more data"
        )
    train_stop = np.array([borders[0]])
    return panel, Split(
        train_stop,
        _every_cutoff(borders[0], borders[1], config.horizon),
        _every_cutoff(borders[1], borders[2], config.horizon),
    )


def resolve_split(panel: Panel, config: DataConfig) -> str:
    """Return the split that `auto` stands for."""
    if config.split != "auto":
        return config.split
    name = config.path.stem.lower()
    for prefix, kind in (("etth", "ett_hour"), ("ettm", "ett_minute")):
        if name.startswith(prefix) and panel.layout == "wide":
            return kind
    return "fractions" if panel.layout == "wide" else "tail"


def _every_cutoff(start: int, stop: int, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    cutoffs = np.arange(start, stop - horizon + 1)
    return np.zeros_like(cutoffs), cutoffs


def _tail(panel: Panel, config: DataConfig) -> tuple[Panel, Split]:
    step = config.cutoff_step or config.horizon
    part = config.horizon + (config.cutoffs - 1) * step
    needed = 2 * part + config.horizon + 1
    enough = panel.lengths >= needed
    if (not enough.all() and config.short == "error") or not enough.any():
        worst = int(np.argmin(panel.lengths))
        raise DataError(
            f"{config.path}: series {panel.ids[worst]!r} has {panel.lengths[worst]} rows; horizon "
            f"{config.horizon} with {config.cutoffs} cut-offs each for validation and test needs "
            f"{needed} ({int((~enough).sum())} series are too short); "
            "set data.short=drop, fewer cut-offs or a shorter horizon"
        )
    panel = keep_series(panel, np.flatnonzero(enough))
    lengths = panel.lengths
    test_start, val_start = lengths - part, lengths - 2 * part
    return panel, Split(
        val_start,
        _rolling(val_start, config.cutoffs, step),
        _rolling(test_start, config.cutoffs, step),
    )


def _rolling(first: np.ndarray, cutoffs: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    series = np.repeat(np.arange(len(first)), cutoffs)
    return series, np.repeat(first, cutoffs) + np.tile(np.arange(cutoffs) * step, len(first))


def keep_series(panel: Panel, kept: np.ndarray) -> Panel:
    """Return the panel with only the series `kept`, in that order."""
    if len(kept) == len(panel):
        return panel
    rows = np.concatenate([np.arange(panel.offsets[s], panel.offsets[s + 1]) for s in kept])
    ids = tuple(panel.ids[s] for s in kept)
    return _rows(replace(panel, ids=ids), rows, panel.lengths[kept])


def without_horizon(panel: Panel) -> Panel:
    """Return the panel without the rows after the last observed target of each series."""
    horizon = panel.horizon_rows
    if not horizon.any():
        return panel
    lengths = panel.lengths - np.add.reduceat(horizon, panel.offsets[:-1], dtype=np.int64)
    kept = np.flatnonzero(lengths)
    ids = tuple(panel.ids[s] for s in kept)
    return _rows(replace(panel, ids=ids), np.flatnonzero(~horizon), lengths[kept])


def _rows(panel: Panel, rows: np.ndarray, lengths: np.ndarray) -> Panel:
    return replace(
        panel,
        values=panel.values[rows],
        past_covariates=panel.past_covariates[rows],
        future_covariates=panel.future_covariates[rows],
        times=panel.times[rows],
        offsets=np.r_[0, np.cumsum(lengths)].astype(np.int64),
    )

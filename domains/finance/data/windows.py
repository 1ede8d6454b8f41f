"""Windows of features with their labels: a batch is one gather from a strided view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from domains.finance.data.book import BookSeries
from domains.finance.data.config import DataConfig
from domains.finance.data.features import feature_names, features, scaling_groups
from domains.finance.data.labels import STATIONARY, UNKNOWN, class_shares, classes, movement
from domains.finance.data.scaling import RankScaler, Scaler, fit_rank_scaler, fit_scaler
from domains.finance.data.splits import Parts, take
from domains.finance.data.thresholds import Alpha, fit_alpha, width
from shared_runtime.errors import DataError


@dataclass(frozen=True)
class Fitted:
    """What is fitted on the training part: threshold and scaler."""

    names: tuple[str, ...]
    """Of the features."""
    alpha: Alpha
    """0 for labels that came with the data."""
    scaler: Scaler | RankScaler

    def to_json(self) -> dict[str, Any]:
        """Return plain lists and numbers."""
        alpha = list(self.alpha) if isinstance(self.alpha, tuple) else self.alpha
        scaler = {name: value.tolist() for name, value in vars(self.scaler).items()}
        return {"features": list(self.names), "alpha": alpha, "scaler": scaler}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Fitted:
        """Read what `to_json` wrote."""
        alpha = state["alpha"]
        low_high = (float(alpha[0]), float(alpha[1])) if isinstance(alpha, list) else float(alpha)
        arrays = {name: np.asarray(value, float) for name, value in state["scaler"].items()}
        scaler = RankScaler(**arrays) if "score" in arrays else Scaler(**arrays)
        return cls(tuple(state["features"]), low_high, scaler)


@dataclass(frozen=True)
class Origin:
    """Where a series of the windows came from."""

    instrument: str
    day: str
    source: str
    first_row: int
    tick: float


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of one part of the data; satisfies `shared_runtime.domain.Batches`.

    The series of the part lie one after another, M rows in all; window i holds the `lookback`
    rows up to row `ends[i]`, all of one series, and its label is that of its last row.
    """

    features: np.ndarray
    """float32 `[M, F]`, not scaled; NaN where unknown."""
    ends: np.ndarray
    """int64 `[n]`."""
    label: np.ndarray
    """int8 `[n]`: 0 up, 1 stationary, 2 down; -1 where unknown."""
    change: np.ndarray
    """float64 `[n]`: what the label is cut from, a fraction of the price; NaN where unknown. For
    labels that came with the data, 1 up, 0 stationary and -1 down."""
    lookback: int
    fitted: Fitted
    time: np.ndarray
    """int64 `[M]`, nanoseconds."""
    bid: np.ndarray
    """float64 `[M]`, best bid; NaN where there is none."""
    ask: np.ndarray
    bid_size: np.ndarray
    ask_size: np.ndarray
    series: np.ndarray
    """int32 `[M]`, number of the series in `origins`."""
    origins: tuple[Origin, ...]

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def mid(self) -> np.ndarray:
        """Float64 `[M]`."""
        return (self.bid + self.ask) / 2

    @cached_property
    def _scaled(self) -> np.ndarray:
        return self._view(self.fitted.scaler.transform(self.features))

    def _view(self, rows: np.ndarray) -> np.ndarray:
        """View `[M, F]` as every window, `[M - T + 1, T, F]`."""
        number = max(0, len(rows) - self.lookback + 1)
        shape = (number, self.lookback, rows.shape[1])
        strides = (rows.strides[0], *rows.strides)
        return np.lib.stride_tricks.as_strided(rows, shape, strides, writeable=False)

    def batch(self, indices: np.ndarray) -> dict[str, Tensor]:
        """Return `x` float32 `[B, T, F]` scaled, `label` int64 `[B]` and `change` float32 `[B]`.

        The change is in units of the threshold; NaN where unknown.
        """
        change = self.change[indices] / width(self.fitted.alpha)
        return {
            "x": torch.from_numpy(self._scaled[self.ends[indices] - (self.lookback - 1)]),
            "label": torch.from_numpy(self.label[indices].astype(np.int64)),
            "change": torch.from_numpy(change.astype(np.float32)),
        }

    def raw(self, indices: np.ndarray) -> np.ndarray:
        """Return features that are not scaled, float32 `[B, T, F]`."""
        return self._view(self.features)[self.ends[indices] - (self.lookback - 1)]

    def last(self) -> np.ndarray:
        """Return the features of the last row of each window, not scaled, float32 `[n, F]`."""
        return self.features[self.ends]

    def shares(self) -> tuple[float, float, float]:
        """Return the shares of up, stationary and down."""
        return class_shares(self.label)


def make_windows(
    series: Sequence[BookSeries], parts: Parts, config: DataConfig, fitted: Fitted | None = None
) -> dict[str, Windows]:
    """Return the windows of `train`, `val` and `test`.

    Args:
        series: sampled series, as `splits.split` took them.
        parts: what it returned.
        config: the `data:` section.
        fitted: threshold and scaler of a trained model; None fits them on the training part.

    Raises:
        DataError: the data lack what the features or labels need.
    """
    pieces = {name: take(series, part) for name, part in parts.items().items()}
    rows = {name: [_features(one, config) for one in part] for name, part in pieces.items()}
    if fitted is None:
        names = names_of(pieces["train"], config)
        scaler = _fit_scaler(rows["train"], config, names)
        fitted = Fitted(names, _alpha(pieces["train"], config), scaler)
    return {
        name: _windows(
            part, rows[name], config, fitted, config.train_stride if name == "train" else 1
        )
        for name, part in pieces.items()
    }


def prediction_windows(series: Sequence[BookSeries], config: DataConfig, fitted: Fitted) -> Windows:
    """Return a window that ends at every row with enough rows before it, without labels."""
    rows = [_features(one, config) for one in series]
    return _windows(series, rows, config, fitted, stride=1, labelled=False)


def names_of(series: Sequence[BookSeries], config: DataConfig) -> tuple[str, ...]:
    """Return the names of the features that these series have."""
    events = {one.events is not None for one in series}
    if len(events) > 1 and config.features == "relative":
        raise DataError(
            f"{config.path}: some files have order messages and others not; use one kind at a time"
        )
    given = next((one.given.shape[1] for one in series if one.given is not None), 0)
    return feature_names(config.features, config.levels, events=True in events, given=given)


def _features(one: BookSeries, config: DataConfig) -> np.ndarray:
    return features(one, config.features, config.levels, config.smoothing)


def _fit_scaler(
    rows: Sequence[np.ndarray], config: DataConfig, names: tuple[str, ...]
) -> Scaler | RankScaler:
    ranks = config.features == "relative" if config.scale == "auto" else config.scale == "rank"
    return (
        fit_rank_scaler(rows) if ranks else fit_scaler(rows, scaling_groups(config.features, names))
    )


def _alpha(series: Sequence[BookSeries], config: DataConfig) -> Alpha:
    if config.label == "given":
        return 0.0
    change = np.concatenate([_change(one, config) for one in series])
    spread = np.concatenate([one.spread for one in series])
    mid = np.concatenate([one.mid for one in series])
    return fit_alpha(change, spread, mid, config.threshold, config.alpha)


def _change(one: BookSeries, config: DataConfig) -> np.ndarray:
    if one.normalised:
        raise DataError(
            f"{one.source}: prices are normalised, so label {config.label} cannot be computed; "
            "use data.label=given"
        )
    return movement(one.mid, config.label, config.horizon, config.smoothing)


def _given(one: BookSeries, config: DataConfig) -> np.ndarray:
    if one.given_labels is None:
        raise DataError(
            f"{one.source}: no labels came with this file; data.label=given is for FI-2010"
        )
    if config.horizon not in one.given_horizons:
        known = ", ".join(map(str, one.given_horizons))
        raise DataError(
            f"{one.source}: labels for horizons {known} came with this file, not for "
            f"{config.horizon}; set data.horizon to one of them"
        )
    return one.given_labels[:, one.given_horizons.index(config.horizon)]


def _labels(
    one: BookSeries, config: DataConfig, fitted: Fitted, labelled: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return class and change of every row."""
    if not labelled:
        return np.full(len(one), UNKNOWN, np.int8), np.full(len(one), np.nan)
    if config.label == "given":
        label = _given(one, config)
        return label, np.where(label >= 0, STATIONARY - label.astype(np.float64), np.nan)
    change = _change(one, config)
    return classes(change, fitted.alpha), change


def _windows(
    series: Sequence[BookSeries],
    rows: Sequence[np.ndarray],
    config: DataConfig,
    fitted: Fitted,
    stride: int,
    labelled: bool = True,
) -> Windows:
    width_of_rows = len(fitted.names)
    for one, found in zip(series, rows, strict=True):
        if found.shape[1] != width_of_rows:
            raise DataError(
                f"{one.source}: {found.shape[1]} features, the model was trained with "
                f"{width_of_rows}; use data with the same columns, levels and messages"
            )
    labels, changes, ends, offset = [], [], [], 0
    for one in series:
        label, change = _labels(one, config, fitted, labelled)
        end = np.arange(config.lookback - 1, len(one))
        end = end[label[end] >= 0][::stride] if labelled else end
        labels.append(label[end])
        changes.append(change[end])
        ends.append(end + offset)
        offset += len(one)
    book = _join([one.book[:, :4] for one in series], np.zeros((0, 4)))
    numbers = np.arange(len(series), dtype=np.int32)
    return Windows(
        features=_join(rows, np.zeros((0, width_of_rows), np.float32)),
        ends=_join(ends, np.zeros(0, np.int64)),
        label=_join(labels, np.zeros(0, np.int8)),
        change=_join(changes, np.zeros(0)),
        lookback=config.lookback,
        fitted=fitted,
        time=_join([one.time for one in series], np.zeros(0, np.int64)),
        bid=book[:, 2].copy(),
        ask=book[:, 0].copy(),
        bid_size=book[:, 3].copy(),
        ask_size=book[:, 1].copy(),
        series=np.repeat(numbers, [len(one) for one in series]),
        origins=tuple(
            Origin(one.instrument, one.day, one.source, one.first_row, one.tick) for one in series
        ),
    )


def _join(parts: Sequence[np.ndarray], empty: np.ndarray) -> np.ndarray:
    """Concatenate; `empty` gives shape and type where there is nothing."""
    if not parts:
        return empty
    return parts[0] if len(parts) == 1 else np.concatenate(parts)

"""Standardisation per series and channel, fitted on the training part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shared_runtime.errors import DataError

_SMALLEST = 1e-8


@dataclass(frozen=True)
class Scaler:
    """Mean and standard deviation per series and channel, each float64 `[S, C]`."""

    mean: np.ndarray
    std: np.ndarray

    def transform(self, values: np.ndarray, series: np.ndarray) -> np.ndarray:
        """Standardise rows `[T, C]` whose series are `series` `[T]`; float32."""
        return ((values - self.mean[series]) / self.std[series]).astype(np.float32)

    def inverse(self, values: np.ndarray, series: np.ndarray) -> np.ndarray:
        """Bring `[N, H, C]` or `[N, H, C, Q]` of series `[N]` back to the original scale."""
        shape = (len(series), 1, -1) + (1,) * (values.ndim - 3)
        return values * self.std[series].reshape(shape) + self.mean[series].reshape(shape)

    def to_json(self) -> dict[str, Any]:
        """Return plain lists."""
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Scaler:
        """Read what `to_json` wrote."""
        return cls(np.asarray(state["mean"], np.float64), np.asarray(state["std"], np.float64))


def fit_scaler(values: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> Scaler:
    """Fit on rows `starts[s]:stops[s]` of each series s, missing values left out.

    Constant and empty channels get unit spread, so that they stay finite.
    """
    mean = np.zeros((len(starts), values.shape[1]))
    std = np.ones_like(mean)
    for series, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        part = values[start:stop].astype(np.float64)
        seen = ~np.isnan(part)
        count = np.maximum(seen.sum(0), 1)
        mean[series] = np.where(seen, part, 0).sum(0) / count
        spread = np.sqrt(np.where(seen, (part - mean[series]) ** 2, 0).sum(0) / count)
        std[series] = np.where(spread > _SMALLEST, spread, 1.0)
    return Scaler(mean, std)


def unit_scaler(series: int, channels: int) -> Scaler:
    """Return the scaler that changes nothing."""
    return Scaler(np.zeros((series, channels)), np.ones((series, channels)))


def known_scaler(
    ids: Sequence[str], channels: Sequence[str], fitted: Scaler, preprocessing: Mapping[str, Any]
) -> Scaler:
    """Return `fitted` with the rows of series a trained model knows replaced by its own.

    Raises:
        DataError: the channels are not those the model was trained on.
    """
    if list(channels) != list(preprocessing["channels"]):
        raise DataError(
            f"the model was trained on the channels {', '.join(preprocessing['channels'])}; "
            f"the data have {', '.join(channels)}; set data.targets"
        )
    stored = Scaler.from_json(preprocessing["scaler"])
    mean, std = fitted.mean.copy(), fitted.std.copy()
    known = {name: number for number, name in enumerate(preprocessing["ids"])}
    for series, name in enumerate(ids):
        if name in known:
            mean[series], std[series] = stored.mean[known[name]], stored.std[known[name]]
    return Scaler(mean, std)

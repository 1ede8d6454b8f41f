"""Standardisation, fitted on the training part: targets per series, covariates over all series."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from domains.forecasting.data.panel import Panel
from shared_runtime.errors import DataError

_NOISE = 1e-12


@dataclass(frozen=True)
class Scaler:
    """Mean and standard deviation: float64 `[S, C]` of targets, `[K + K']` of covariates."""

    mean: np.ndarray
    std: np.ndarray
    covariate_mean: np.ndarray
    covariate_std: np.ndarray

    def transform(self, values: np.ndarray, series: np.ndarray) -> np.ndarray:
        """Standardise rows `[T, C]` whose series are `series` `[T]`; float32."""
        return ((values - self.mean[series]) / self.std[series]).astype(np.float32)

    def transform_covariates(self, covariates: np.ndarray) -> np.ndarray:
        """Standardise past and future covariates side by side, `[T, K + K']`; float32."""
        return ((covariates - self.covariate_mean) / self.covariate_std).astype(np.float32)

    def inverse(self, values: np.ndarray, series: np.ndarray) -> np.ndarray:
        """Bring `[N, H, C]` or `[N, H, C, Q]` of series `[N]` back to the original scale."""
        shape = (len(series), 1, -1) + (1,) * (values.ndim - 3)
        return values * self.std[series].reshape(shape) + self.mean[series].reshape(shape)

    def to_json(self) -> dict[str, Any]:
        """Return plain lists."""
        return {name: value.tolist() for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Scaler:
        """Read what `to_json` wrote."""
        return cls(**{name: np.asarray(value, np.float64) for name, value in state.items()})


def make_scaler(
    panel: Panel,
    stops: np.ndarray,
    kind: Literal["standard", "none"],
    preprocessing: Mapping[str, Any] | None = None,
) -> Scaler:
    """Return the scaler of a panel.

    Args:
        panel: series to be standardised.
        stops: int64 `[S]`: the first `stops[s]` rows of series s are its training part.
        kind: `standard`, or `none` for a scaler that changes nothing.
        preprocessing: state of a trained model; series it knows and all covariates keep the
            scale of its training, other series get their own.

    Raises:
        DataError: the channels are not those the model was trained on.
    """
    fitted = fit_scaler(panel, stops) if kind == "standard" else unit_scaler(panel)
    if preprocessing is None:
        return fitted
    trained = preprocessing["channels"]
    if list(panel.channels) != list(trained):
        raise DataError(
            f"the model was trained on the channels {', '.join(trained)}; "
            f"the data have {', '.join(panel.channels)}; set data.targets"
        )
    stored = Scaler.from_json(preprocessing["scaler"])
    mean, std = fitted.mean.copy(), fitted.std.copy()
    known = {name: number for number, name in enumerate(preprocessing["ids"])}
    for series, name in enumerate(panel.ids):
        if name in known:
            mean[series], std[series] = stored.mean[known[name]], stored.std[known[name]]
    return replace(stored, mean=mean, std=std)


def fit_scaler(panel: Panel, stops: np.ndarray) -> Scaler:
    """Fit on the first `stops[s]` rows of each series s, missing values left out.

    Constant and empty channels get unit spread, so that they stay finite.
    """
    starts = panel.offsets[:-1]
    position = np.arange(len(panel.values)) - np.repeat(starts, panel.lengths)
    training = position < np.repeat(stops, panel.lengths)
    mean, std = _moments(panel.values, training, starts)
    covariates = np.concatenate([panel.past_covariates, panel.future_covariates], axis=1)
    covariate_mean, covariate_std = _moments(covariates, training, np.zeros(1, dtype=np.int64))
    return Scaler(mean, std, covariate_mean[0], covariate_std[0])


def _moments(
    values: np.ndarray, training: np.ndarray, starts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and spread `[G, C]` of the training rows of each group of rows."""
    seen = training[:, None] & ~np.isnan(values)
    count = np.maximum(np.add.reduceat(seen, starts, axis=0, dtype=np.int64), 1)
    mean = np.add.reduceat(np.where(seen, values, 0.0), starts, axis=0) / count
    sizes = np.diff(np.r_[starts, len(values)])
    distance = np.where(seen, values - np.repeat(mean, sizes, axis=0), 0.0)
    spread = np.sqrt(np.add.reduceat(distance**2, starts, axis=0) / count)
    return mean, np.where(spread > _NOISE * np.abs(mean), spread, 1.0)


def unit_scaler(panel: Panel) -> Scaler:
    """Return the scaler that changes nothing."""
    covariates = panel.past_covariates.shape[1] + panel.future_covariates.shape[1]
    shape = (len(panel), len(panel.channels))
    return Scaler(np.zeros(shape), np.ones(shape), np.zeros(covariates), np.ones(covariates))

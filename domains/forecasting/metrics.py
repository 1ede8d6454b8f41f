"""Forecast errors of every window, and their means with intervals.

Definitions are those of `utilsforecast.losses` (the tests compare them): sMAPE is bounded by 1.
`mse` and `mae` are on standardised values, as long-horizon papers report them; names
starting with `original_` are in the units of the file.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from domains.forecasting.data.scaling import Scaler
from shared_runtime.domain import Interval
from shared_runtime.errors import HeedError
from shared_runtime.intervals import mean_interval


def central_pairs(quantiles: Sequence[float]) -> list[tuple[int, int, float]]:
    """Return (lower index, upper index, nominal coverage) of the central intervals."""
    pairs = []
    for low, level in enumerate(quantiles):
        for high in range(len(quantiles) - 1, low, -1):
            if abs(level + quantiles[high] - 1) < 1e-9:
                pairs.append((low, high, round(quantiles[high] - level, 10)))
    return pairs


def median_index(quantiles: Sequence[float]) -> int:
    """Return which output is the point forecast: the level nearest one half."""
    return int(np.argmin(np.abs(np.asarray(quantiles) - 0.5))) if quantiles else 0


@dataclass(frozen=True)
class NaiveScales:
    """Mean absolute and squared seasonal difference of the training rows, each `[S, C]`."""

    absolute: np.ndarray
    squared: np.ndarray


def naive_scales(
    values: np.ndarray, starts: np.ndarray, stops: np.ndarray, season: int
) -> NaiveScales:
    """Return the scales of MASE and RMSSE from rows `starts[s]:stops[s]`, original units.

    A series no longer than the season is compared at lag 1. NaN where it has no pair of observed
    values, or never changes; such series are left out of MASE and RMSSE.
    """
    absolute = np.full((len(starts), values.shape[1]), np.nan)
    squared = absolute.copy()
    for series, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        part = values[start:stop].astype(np.float64)
        lag = season if len(part) > season else 1
        change = part[lag:] - part[:-lag]
        seen = np.isfinite(change)
        count = seen.sum(0)
        for out, size in ((absolute, np.abs(change)), (squared, change**2)):
            total = np.where(seen, size, 0).sum(0)
            out[series] = np.where((count > 0) & (total > 0), total / np.maximum(count, 1), np.nan)
    return NaiveScales(absolute, squared)


@dataclass
class Scores:
    """Sums of errors per window, added batch by batch; no result depends on the batch size.

    Args:
        scaler: of the standardised values.
        scales: of MASE and RMSSE.
        quantiles: levels of the outputs; empty for a point forecast.
    """

    scaler: Scaler
    scales: NaiveScales
    quantiles: Sequence[float] = ()
    _parts: dict[str, list[np.ndarray]] = field(default_factory=lambda: defaultdict(list))

    def add(
        self, forecast: np.ndarray, target: np.ndarray, observed: np.ndarray, series: np.ndarray
    ) -> None:
        """Add a batch.

        Args:
            forecast: standardised `[B, H, C, Q]`.
            target: standardised `[B, H, C]`.
            observed: bool `[B, H, C]`; other entries are not scored.
            series: int64 `[B]`.

        Raises:
            HeedError: a forecast is not a finite number.
        """
        forecast, target = forecast.astype(np.float64), target.astype(np.float64)
        broken = ~np.isfinite(forecast).all(axis=(1, 2, 3))
        if broken.any():
            raise HeedError(
                f"window {self.windows + int(broken.argmax())}: the forecast is not finite "
                f"({int(broken.sum())} such windows in the batch); train with a lower "
                "training.learning_rate or in float32"
            )
        counted = observed & np.isfinite(target)
        point = forecast[..., median_index(self.quantiles)]
        self._sum("count", counted.astype(np.float64))
        error = np.where(counted, point - target, 0.0)
        self._sum("mse", error**2)
        self._sum("mae", np.abs(error))
        self._parts["mae_by_step"].append(np.abs(error).sum(axis=2))
        self._parts["count_by_step"].append(counted.sum(axis=2).astype(np.float64))
        truth = np.where(counted, self.scaler.inverse(target, series), 0.0)
        original = np.where(counted, self.scaler.inverse(point, series), 0.0)
        error = original - truth
        self._sum("original_mse", error**2)
        self._sum("original_mae", np.abs(error))
        size = np.abs(truth) + np.abs(original)
        self._sum("smape", np.divide(np.abs(error), size, out=np.zeros_like(size), where=size > 0))
        self._scaled_errors(error, counted, series)
        if self.quantiles:
            every = self.scaler.inverse(forecast, series)
            self._quantile_errors(every, truth, counted)

    def metrics(self, *, block: int, seed: int) -> dict[str, Interval]:
        """Return the metrics with intervals.

        Args:
            block: neighbouring windows that overlap; see `shared_runtime.intervals`.
            seed: seed of the bootstrap.

        Raises:
            ValueError: no entry was scored.
        """
        if not self._total("count").sum():
            raise ValueError("no observed value to score; the targets of this part are all missing")
        found = {
            name: self._ratio(name, "count", block, seed)
            for name in ("mse", "mae", "original_mse", "original_mae", "smape")
        }
        rmse = found["original_mse"]
        found["original_rmse"] = Interval(
            rmse.value**0.5,
            None if rmse.ci_low is None else max(rmse.ci_low, 0.0) ** 0.5,
            None if rmse.ci_high is None else rmse.ci_high**0.5,
        )
        for name in ("mase", "rmsse"):
            values = self._total(name)
            if np.isfinite(values).any():
                found[name] = mean_interval(values[np.isfinite(values)], block=block, seed=seed)
        if self.quantiles:
            found["wql"] = self._ratio("quantile_loss", "magnitude", block, seed)
            for _, _, nominal in central_pairs(self.quantiles):
                name = coverage_name(nominal)
                found[name] = self._ratio(name, "count", block, seed)
        return found

    def by_step(self) -> np.ndarray:
        """Return the mean absolute standardised error of each horizon step, `[H]`."""
        count = np.concatenate(self._parts["count_by_step"]).sum(0)
        return np.concatenate(self._parts["mae_by_step"]).sum(0) / np.maximum(count, 1)

    @property
    def windows(self) -> int:
        """Number of windows added."""
        return sum(map(len, self._parts["count"]))

    def per_window(self) -> dict[str, np.ndarray]:
        """Return `squared` and `absolute` errors and the `count` scored of each window, `[N]`.

        Errors are sums over the entries, standardised.
        """
        names = {"squared": "mse", "absolute": "mae", "count": "count"}
        return {name: self._total(part) for name, part in names.items()}

    def _scaled_errors(self, error: np.ndarray, counted: np.ndarray, series: np.ndarray) -> None:
        steps = counted.sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = np.where(steps > 0, np.abs(error).sum(1) / steps, np.nan)
            square = np.where(steps > 0, (error**2).sum(1) / steps, np.nan)
        for name, ratio in (
            ("mase", mean / self.scales.absolute[series]),
            ("rmsse", np.sqrt(square / self.scales.squared[series])),
        ):
            seen = np.isfinite(ratio)
            total = np.where(seen, ratio, 0).sum(1)
            self._parts[name].append(
                np.where(seen.any(1), total / np.maximum(seen.sum(1), 1), np.nan)
            )

    def _quantile_errors(self, every: np.ndarray, truth: np.ndarray, counted: np.ndarray) -> None:
        levels = np.asarray(self.quantiles)
        error = truth[..., None] - every
        loss = np.maximum(levels * error, (levels - 1) * error) * counted[..., None]
        self._sum("quantile_loss", 2 * loss.mean(axis=-1))
        self._sum("magnitude", np.abs(truth) * counted)
        for low, high, nominal in central_pairs(self.quantiles):
            inside = (truth >= every[..., low]) & (truth <= every[..., high]) & counted
            self._sum(coverage_name(nominal), inside.astype(np.float64))

    def _sum(self, name: str, entries: np.ndarray) -> None:
        self._parts[name].append(entries.sum(axis=(1, 2)))

    def _total(self, name: str) -> np.ndarray:
        return np.concatenate(self._parts[name])

    def _ratio(self, name: str, denominator: str, block: int, seed: int) -> Interval:
        below = self._total(denominator)
        return mean_interval(self._total(name) / below.mean(), block=block, seed=seed)


def coverage_name(nominal: float) -> str:
    """Return the metric name of a central interval, such as `coverage_80`."""
    return f"coverage_{100 * nominal:g}".replace(".", "_")


def values_only(metrics: Mapping[str, Interval]) -> dict[str, float]:
    """Return the metrics without their intervals."""
    return {name: interval.value for name, interval in metrics.items()}

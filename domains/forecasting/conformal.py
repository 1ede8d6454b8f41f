"""Split-conformal calibration of quantile forecasts on validation windows.

Source: Romano, Patterson and Candès, "Conformalized Quantile Regression", 2019. Its coverage
guarantee is for exchangeable windows; forecast windows of one series are not, so coverage on
the test part is measured and shown rather than promised.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from domains.forecasting.metrics import central_pairs

Offsets = Sequence[Sequence[Sequence[float]]]
"""How far to widen each central interval, `[pairs, H, C]`, standardised; plain lists."""


def conformal_offsets(
    forecast: np.ndarray, target: np.ndarray, observed: np.ndarray, quantiles: Sequence[float]
) -> Offsets:
    """Return how far to widen each central interval at each step of each channel.

    With n validation windows the offset is the ceil((n + 1) * coverage)-th smallest distance of
    targets outside the interval; negative where it was too wide. Where there are too few windows
    for that, the steps of a channel are taken together.

    Args:
        forecast: `[N, H, C, Q]` on validation windows.
        target: `[N, H, C]`.
        observed: bool `[N, H, C]`; other targets are left out.
        quantiles: levels of the outputs, `[Q]`.
    """
    windows, horizon, channels = target.shape
    offsets = []
    for low, high, coverage in central_pairs(quantiles):
        outside = np.maximum(forecast[..., low] - target, target - forecast[..., high])
        outside = np.where(observed, outside, np.nan)
        by_step, enough = _order_statistic(outside, coverage)
        pooled, _ = _order_statistic(outside.reshape(windows * horizon, channels), coverage)
        offsets.append(np.where(enough, by_step, pooled).round(6).tolist())
    return offsets


def _order_statistic(scores: np.ndarray, coverage: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the conformal quantile along the first axis, and where there are enough scores.

    The largest score where there are too few, zero where there is none.
    """
    ordered = np.sort(scores, axis=0)
    count = (~np.isnan(scores)).sum(axis=0)
    rank = np.ceil((count + 1) * coverage - 1e-9).astype(np.int64)
    place = np.clip(np.minimum(rank, count) - 1, 0, None)
    chosen = np.take_along_axis(ordered, place[None], axis=0)[0]
    return np.where(count > 0, chosen, 0.0), rank <= count


def widen(forecast: np.ndarray, quantiles: Sequence[float], offsets: Offsets) -> np.ndarray:
    """Return `[N, H, C, Q]` with every central interval widened by its offset, never crossed."""
    widened = forecast.copy()
    for (low, high, _), offset in zip(central_pairs(quantiles), offsets, strict=True):
        widened[..., low] -= np.asarray(offset)
        widened[..., high] += np.asarray(offset)
    return np.sort(widened, axis=-1)

"""Split-conformal calibration of quantile forecasts on validation windows.

Source: Romano, Patterson and Candès, "Conformalized Quantile Regression", 2019.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from domains.forecasting.metrics import central_pairs


def conformal_offsets(
    forecast: np.ndarray, target: np.ndarray, observed: np.ndarray, quantiles: Sequence[float]
) -> list[list[float]]:
    """Return how far to widen each central interval per channel; one list per pair, standardised.

    The offset of an interval is the quantile, at its nominal coverage with the finite-sample
    correction, of how far targets lie outside it; negative where the interval was too wide.

    Args:
        forecast: `[N, H, C, Q]` on validation windows.
        target: `[N, H, C]`.
        observed: bool `[N, H, C]`.
        quantiles: levels of the outputs, `[Q]`.
    """
    offsets = []
    for low, high, nominal in central_pairs(quantiles):
        outside = np.maximum(forecast[..., low] - target, target - forecast[..., high])
        per_channel = []
        for channel in range(target.shape[2]):
            scores = outside[..., channel][observed[..., channel]]
            level = min(1.0, np.ceil((len(scores) + 1) * nominal) / max(len(scores), 1))
            per_channel.append(
                float(np.quantile(scores, level, method="higher")) if len(scores) else 0.0
            )
        offsets.append(per_channel)
    return offsets


def widen(
    forecast: np.ndarray, quantiles: Sequence[float], offsets: Sequence[Sequence[float]]
) -> np.ndarray:
    """Return `[N, H, C, Q]` with every central interval widened by its offset, never crossed."""
    widened = forecast.copy()
    for (low, high, _), per_channel in zip(central_pairs(quantiles), offsets, strict=True):
        offset = np.asarray(per_channel)
        widened[..., low] -= offset
        widened[..., high] += offset
    return np.sort(widened, axis=-1)

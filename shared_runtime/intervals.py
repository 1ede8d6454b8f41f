"""Confidence intervals of a mean over scored items."""

from __future__ import annotations

import numpy as np

from shared_runtime.domain import Interval

_DRAWS_AT_ONCE = 2**21


def mean_interval(
    per_item: np.ndarray,
    *,
    block: int = 1,
    seed: int,
    confidence: float = 0.95,
    resamples: int = 1000,
) -> Interval:
    """Bootstrap the mean of `per_item`.

    Items that overlap, such as forecast windows one step apart, are not independent: resampling
    them one by one gives intervals far too narrow. Circular blocks of `block` neighbours are drawn
    instead (Politis & Romano 1992, "A circular block-resampling procedure for stationary data");
    `block=1` is the ordinary bootstrap for independent items. The interval is the percentile one.

    Args:
        per_item: `[n]` one finite value per item, in time order where `block` is above 1.
        block: Neighbours drawn together; at least the number of steps over which items share data.
        seed: Seed of the draws.
        confidence: Share of intervals that should cover the true mean.
        resamples: Number of bootstrap means.

    Returns:
        The mean with its bounds; bounds are None where there are fewer than two blocks.

    Raises:
        ValueError: `per_item` is empty, not one-dimensional or not finite, or `block` is below 1.
    """
    values = np.asarray(per_item, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"mean_interval: per_item must be [n] with n >= 1, got {values.shape}")
    if not np.isfinite(values).all():
        bad = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ValueError(f"mean_interval: per_item[{bad}] is {values[bad]}, expected finite values")
    if block < 1:
        raise ValueError(f"mean_interval: block must be at least 1, got {block}")
    mean = float(values.mean())
    if values.size < 2 * block:
        return Interval(mean)
    means = mean + _block_means(values - mean, block, resamples, np.random.default_rng(seed))
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(mean, float(low), float(high))


def _block_means(
    values: np.ndarray, block: int, resamples: int, rng: np.random.Generator
) -> np.ndarray:
    """Means of `resamples` samples of whole circular blocks, `[resamples]`."""
    wrapped = np.concatenate([values, values[: block - 1]])
    sums = _window_sums(wrapped, block)
    draws = -(-values.size // block)
    at_once = max(1, _DRAWS_AT_ONCE // draws)
    parts = []
    for first in range(0, resamples, at_once):
        count = min(at_once, resamples - first)
        starts = rng.integers(0, values.size, size=(count, draws))
        parts.append(sums[starts].sum(axis=1) / (draws * block))
    return np.concatenate(parts)


def _window_sums(values: np.ndarray, block: int) -> np.ndarray:
    total = np.cumsum(np.concatenate([[0.0], values]))
    return total[block:] - total[:-block]

"""Block bootstrap over time for scores that are functions of sums over items."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from shared_runtime.domain import Interval

MOST_BLOCKS = 1000
"""Blocks of one resample; where `block` asks for more, blocks are made longer."""
_ENTRIES_AT_ONCE = 2**22


def overlap(horizon: int, smoothing: int = 0) -> int:
    """Return over how many neighbouring rows labels share prices: the shortest sound block."""
    return horizon + smoothing + 1


def block_length(items: int, block: int) -> int:
    """Return the length used for `items`: `block`, or longer so that `MOST_BLOCKS` suffice."""
    return max(block, -(-items // MOST_BLOCKS))


def resampled_means(
    values: np.ndarray, series: np.ndarray, *, block: int, seed: int, resamples: int = 1000
) -> np.ndarray:
    """Return the means of `resamples` circular block bootstrap samples, `[resamples, K]`.

    Neighbouring labels share prices, so items are not independent: blocks of neighbours are drawn
    (Politis & Romano 1992, "A circular block-resampling procedure for stationary data"). A block
    is circular within its own series and never joins two; a series shorter than a block is drawn
    whole. Every item is drawn equally often.

    Args:
        values: `[n, K]`, in time order within each series.
        series: integers `[n]`, constant over each series, whose items lie together.
        block: items drawn together at least; see `overlap`.
        seed: of the draws.
        resamples: number of samples.

    Raises:
        ValueError: there is no item, or `block` is below 1.
    """
    if len(values) == 0 or block < 1:
        raise ValueError(
            f"resampled_means: expected items and a block of at least 1, got {len(values)} items "
            f"and block {block}"
        )
    length = block_length(len(values), block)
    sums = _block_sums(np.asarray(values, dtype=np.float64), series, length)
    draws = -(-len(values) // length)
    rng = np.random.default_rng(seed)
    at_once = max(1, _ENTRIES_AT_ONCE // (draws * values.shape[1]))
    parts = []
    for first in range(0, resamples, at_once):
        starts = rng.integers(0, len(values), size=(min(at_once, resamples - first), draws))
        parts.append(sums[starts].sum(axis=1))
    return np.concatenate(parts) / (draws * length)


def resampled_paths(
    values: np.ndarray, series: np.ndarray, *, block: int, seed: int, resamples: int = 1000
) -> tuple[np.ndarray, np.ndarray]:
    """Return the running sums of resamples: the items at which, `[B]`, and them, `[resamples, B]`.

    Args:
        values: `[n]`; the rest as for `resampled_means`.
        series: integers `[n]`.
        block: items drawn together at least.
        seed: of the draws.
        resamples: number of samples.
    """
    length = block_length(len(values), block)
    sums = _block_sums(values[:, None].astype(np.float64), series, length)[:, 0]
    draws = -(-len(values) // length)
    starts = np.random.default_rng(seed).integers(0, len(values), size=(resamples, draws))
    items = np.minimum(length * np.arange(1, draws + 1), len(values)) - 1
    return items, np.cumsum(sums[starts], axis=1)


def interval(
    score: Callable[[np.ndarray], np.ndarray],
    values: np.ndarray,
    means: np.ndarray | None,
    confidence: float = 0.95,
) -> Interval:
    """Return `score` of the sum of `values`, with the percentile interval over `means`.

    Args:
        score: maps sums `[..., K]` to `[...]`, whatever their scale; NaN where undefined.
        values: `[n, K]`.
        means: of `resampled_means`; None gives no bounds.
        confidence: share of intervals that should cover the truth.
    """
    value = float(score(values.sum(axis=0)))
    if means is None:
        return Interval(value)
    draws = score(means)
    draws = draws[np.isfinite(draws)]
    if not np.isfinite(value) or len(draws) < len(means) / 2:
        return Interval(value)
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def boundaries(series: np.ndarray) -> np.ndarray:
    """Return the first item of each series and, last, the number of items."""
    change = np.flatnonzero(np.diff(series)) + 1
    return np.concatenate([[0], change, [len(series)]]).astype(np.int64)


def _block_sums(values: np.ndarray, series: np.ndarray, block: int) -> np.ndarray:
    """Sum over the block that starts at each item, circular within its series, `[n, K]`."""
    edges = boundaries(series)
    sums = np.empty_like(values)
    for start, stop in pairwise(edges.tolist()):
        part = values[start:stop]
        times, rest = divmod(block, len(part))
        total = np.zeros((len(part) + rest + 1, values.shape[1]))
        np.cumsum(np.concatenate([part, part[:rest]]), axis=0, out=total[1:])
        sums[start:stop] = total[rest : rest + len(part)] - total[: len(part)]
        if times:
            sums[start:stop] += times * part.sum(axis=0)
    return sums

"""Baselines that fit nothing but thresholds and shares, from the training part alone.

Each gives `[n, 3]` probabilities of up, stationary and down; the rules are sure of themselves (one
and zero) until `calibrated` turns them into the frequencies that they had in training.
"""

from __future__ import annotations

import numpy as np

UP, STATIONARY, DOWN = 0, 1, 2


def majority(train_label: np.ndarray, items: int, *, soft: bool = False) -> np.ndarray:
    """Return the commonest training class for every item, or with `soft` the training shares."""
    shares = np.bincount(train_label, minlength=3) / len(train_label)
    row = shares if soft else np.eye(3)[shares.argmax()]
    return np.tile(row, (items, 1))


def drift_rule(known: np.ndarray, alpha: float | tuple[float, float]) -> np.ndarray:
    """Predict from the part of the label that is already known.

    A label that compares the mean of coming prices with the mean of past ones contains the move
    from the past mean to the present price, which is known when the forecast is made. Up where it
    is above alpha, down where it is below minus alpha. A model that does not beat this rule has
    learnt to average past prices.

    Args:
        known: `[n]` known part of the relative change; NaN, as at the start of a series, predicts
            stationary. Labels without a known part (returns from the present price) have zeros.
        alpha: threshold of the labels; or lower and upper one.
    """
    low, high = (-alpha, alpha) if isinstance(alpha, int | float) else alpha
    return _by_bounds(known, low, high)


def imbalance(bid_size: np.ndarray, ask_size: np.ndarray) -> np.ndarray:
    """Return (bid - ask) / (bid + ask) of the sizes at the best prices; 0 where both are empty."""
    bid, ask = np.nan_to_num(bid_size), np.nan_to_num(ask_size)
    total = bid + ask
    return np.divide(bid - ask, total, out=np.zeros(np.shape(total)), where=total > 0)


def terciles(train_values: np.ndarray) -> tuple[float, float]:
    """Return the two values that cut the finite training values into thirds.

    Raises:
        ValueError: no training value is finite.
    """
    finite = train_values[np.isfinite(train_values)]
    if not len(finite):
        raise ValueError("terciles: expected finite training values, got none")
    low, high = np.quantile(finite, [1 / 3, 2 / 3])
    return float(low), float(high)


def imbalance_rule(values: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    """Predict up in the highest tercile of imbalance, down in the lowest.

    Args:
        values: `[n]`, of `imbalance`.
        bounds: `terciles` of the training part.
    """
    return _by_bounds(values, *bounds)


def calibrated(
    rule: np.ndarray, train_rule: np.ndarray, train_label: np.ndarray, *, prior: float = 1.0
) -> np.ndarray:
    """Return, for each item, the training shares of the classes where the rule said the same.

    Args:
        rule: `[n, 3]`, sure predictions.
        train_rule: the rule on the training part, `[m, 3]`.
        train_label: classes `[m]`.
        prior: items of each class added to the counts.
    """
    counts = np.full((3, 3), prior)
    np.add.at(counts, (train_rule.argmax(axis=1), train_label), 1)
    return (counts / counts.sum(axis=1, keepdims=True))[rule.argmax(axis=1)]


def _by_bounds(values: np.ndarray, low: float, high: float) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        code = np.where(values > high, UP, np.where(values < low, DOWN, STATIONARY))
    return np.eye(3)[code]

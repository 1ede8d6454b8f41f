"""What the mid price will do, as a relative change and as a class.

Notation: p is the mid, h the horizon and k the smoothing, all counted in rows of one series;
N rows. Every label compares a mean of prices after row t with one of prices up to row t.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

UP, STATIONARY, DOWN = 0, 1, 2
CLASS_NAMES = ("up", "stationary", "down")
UNKNOWN = -1

Form = Literal["paper", "code"]


def movement(
    mid: np.ndarray, label: str, horizon: int, smoothing: int, form: Form = "paper"
) -> np.ndarray:
    """Return the relative change l of every row, as a fraction.

    - `tlob` (Berti and Kasneci 2025): `(w+ - w-) / w-` with `w+` the mean of `p(t+h-k..t+h)` and
      `w-` that of `p(t-k..t)`, k + 1 terms each, so the smoothing does not grow with the horizon.
      `form="code"` is what the authors' program computes: k terms, `p(t+h-k+1..t+h)` and
      `p(t-k+1..t)`, and k at most h. In the paper's form with k above h, `w+` starts at row t.
    - `fi2010` (Ntakaris et al. 2018): `(mean p(t+1..t+h) - p(t)) / p(t)`.
    - `deeplob` (Zhang, Zohren and Roberts 2019): `(m+ - m-) / m-` with `m+` the mean of
      `p(t+1..t+h)` and `m-` that of `p(t-h+1..t)`. It has a horizon bias: both means widen with h,
      so labels of different horizons differ in their smoothing too, the prices compared lie about
      h and not 2h rows apart, and a growing part of the label is past.
    - `return`: `(p(t+h) - p(t)) / p(t)`.

    In `tlob` and `deeplob` the known part of the label (`known_part`) says much of it at short
    horizons without any forecast.

    Args:
        mid: `[N]`; NaN where either side of the book is empty.
        label: `tlob`, `fi2010`, `deeplob` or `return`.
        horizon: h, at least 1.
        smoothing: k, used by `tlob` alone.
        form: form of `tlob`.

    Returns:
        float64 `[N]`, NaN where a row that the label reads is outside the series or has no mid.

    Raises:
        ValueError: unknown label or form, or a horizon or smoothing out of range.
    """
    if horizon < 1:
        raise ValueError(f"movement: horizon: expected at least 1, got {horizon}")
    mid = np.asarray(mid, np.float64)
    sums = _Sums(mid)
    if label == "return":
        future = sums.mean(horizon, horizon)
    elif label in ("fi2010", "deeplob"):
        future = sums.mean(1, horizon)
    else:
        reach = _reach(label, smoothing, horizon, form)
        future = sums.mean(max(horizon - reach, 0), horizon)
    start, past = _past(sums, label, smoothing, horizon, form)
    return (future - past) / (past + start)


def known_part(
    mid: np.ndarray,
    label: str,
    smoothing: int,
    horizon: int | None = None,
    form: Form = "paper",
) -> np.ndarray:
    """Return the part of `movement` that is known at row t: `(p(t) - w-) / w-`.

    It is zero for `fi2010` and `return`, which compare with p(t) itself. Predicting up or down
    where it exceeds alpha is the drift rule, a baseline without parameters.

    Args:
        mid: `[N]`.
        label: as in `movement`.
        smoothing: as in `movement`.
        horizon: needed by `deeplob` and by the code's form of `tlob`.
        form: as in `movement`.

    Returns:
        float64 `[N]`, NaN where a row that it reads is outside the series or has no mid.
    """
    if horizon is None:
        if label == "deeplob" or form == "code":
            raise ValueError(f"known_part: horizon: needed by label {label!r} in form {form!r}")
        horizon = max(1, smoothing)
    mid = np.asarray(mid, np.float64)
    sums = _Sums(mid)
    start, past = _past(sums, label, smoothing, horizon, form)
    return (sums.distance - past) / (past + start)


def classes(change: np.ndarray, alpha: float | tuple[float, float]) -> np.ndarray:
    """Return 0 where the change is above alpha, 2 where it is below -alpha, 1 between.

    Args:
        change: `[N]`, of `movement`.
        alpha: one threshold, or the lower and the upper one.

    Returns:
        int8 `[N]`; -1 where the change is NaN.
    """
    low, high = alpha if isinstance(alpha, tuple) else (-alpha, alpha)
    out = np.full(len(change), STATIONARY, np.int8)
    out[change > high] = UP
    out[change < low] = DOWN
    out[np.isnan(change)] = UNKNOWN
    return out


def class_shares(label: np.ndarray) -> tuple[float, float, float]:
    """Return the shares of up, stationary and down among the known labels; zeros if none is."""
    counts = np.bincount(label[label >= 0], minlength=3)
    up, stationary, down = (counts / max(1, counts.sum())).tolist()
    return up, stationary, down


def reads_back(label: str, smoothing: int, horizon: int) -> int:
    """Return how many rows before row t its label reads."""
    return {"tlob": smoothing, "deeplob": horizon - 1}.get(label, 0)


def _reach(label: str, smoothing: int, horizon: int, form: str) -> int:
    """Return how many rows before its last one a mean of `tlob` starts."""
    if label != "tlob":
        raise ValueError(f"label: expected tlob, fi2010, deeplob or return, got {label!r}")
    if form == "paper":
        if smoothing < 0:
            raise ValueError(f"label tlob: smoothing: expected at least 0, got {smoothing}")
        return smoothing
    if form != "code":
        raise ValueError(f"label tlob: form: expected paper or code, got {form!r}")
    if smoothing < 1:
        raise ValueError(f"label tlob: smoothing of the code's form: at least 1, got {smoothing}")
    return min(smoothing, horizon) - 1


def _past(
    sums: _Sums, label: str, smoothing: int, horizon: int, form: str
) -> tuple[float, np.ndarray]:
    """Return the reference price and, as distances from it, what each row is compared with."""
    if label in ("fi2010", "return"):
        return sums.start, sums.distance
    reach = horizon - 1 if label == "deeplob" else _reach(label, smoothing, horizon, form)
    return sums.start, sums.mean(-reach, 0)


class _Sums:
    """Means over moving windows of one price series, from one cumulative sum.

    Prices enter as distances from the first one, so that the sums stay small.
    """

    def __init__(self, mid: np.ndarray) -> None:
        known = np.isfinite(mid)
        self.start = float(mid[known.argmax()]) if known.any() else 0.0
        self.distance = np.where(known, mid - self.start, np.nan)
        self._total = np.concatenate([[0.0], np.cumsum(np.where(known, self.distance, 0.0))])
        self._missing = None if known.all() else np.concatenate([[0], np.cumsum(~known)])

    def mean(self, first: int, last: int) -> np.ndarray:
        """Return for each row t the mean distance of rows t + first to t + last."""
        rows = len(self.distance)
        out = np.full(rows, np.nan)
        begin, end = max(0, -first), min(rows, rows - last)
        if begin >= end:
            return out
        lower, upper = slice(begin + first, end + first), slice(begin + last + 1, end + last + 1)
        mean = (self._total[upper] - self._total[lower]) / (last - first + 1)
        if self._missing is not None:
            mean[self._missing[upper] > self._missing[lower]] = np.nan
        out[begin:end] = mean
        return out

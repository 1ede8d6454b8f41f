"""Alpha: how large a change must be to count as a move. Fitted on the training part alone."""

from __future__ import annotations

import numpy as np

from shared_runtime.errors import DataError

Alpha = float | tuple[float, float]


def fit_alpha(
    change: np.ndarray, spread: np.ndarray, mid: np.ndarray, threshold: str, alpha: float = 0.0
) -> Alpha:
    """Return the threshold of `classes`.

    - `mean`: half the mean absolute change (the choice of TLOB's authors).
    - `spread`: mean spread over mean mid: a move smaller than that does not pay for crossing the
      spread. Few moves are as large at short horizons, so mind the class shares.
    - `sigma`: `alpha` standard deviations of the change.
    - `tercile`: the first and second tercile, so that the classes are about equal.
    - `fixed`: `alpha` itself.

    Args:
        change: `[n]` relative changes of the training part; NaN is left out.
        spread: `[n]` of the training part.
        mid: `[n]` of the training part.
        threshold: one of the above.
        alpha: for `sigma` and `fixed`.

    Raises:
        DataError: no training row has a label, or the mid never moves.
        ValueError: unknown threshold.
    """
    if threshold == "fixed":
        return float(alpha)
    change = change[np.isfinite(change)]
    if not len(change):
        raise DataError("training part: no row has a label; use more data or a shorter horizon")
    if threshold == "tercile":
        low, high = np.quantile(change, [1 / 3, 2 / 3])
        return float(low), float(high)
    if threshold == "mean":
        found = np.abs(change).mean() / 2
    elif threshold == "sigma":
        found = alpha * change.std()
    elif threshold == "spread":
        known = np.isfinite(spread) & np.isfinite(mid)
        found = spread[known].mean() / mid[known].mean() if known.any() else 0.0
    else:
        raise ValueError(
            f"threshold: expected mean, spread, sigma, tercile or fixed, got {threshold!r}"
        )
    if not found > 0:
        what = "the spread is never above 0" if threshold == "spread" else "the mid never moves"
        raise DataError(f"training part: {what}, so there is no threshold; use more data")
    return float(found)


def width(alpha: Alpha) -> float:
    """Return the size of a move as one number: alpha, or half the distance of the two; never 0."""
    size = (alpha[1] - alpha[0]) / 2 if isinstance(alpha, tuple) else alpha
    return size if size > 0 else 1.0

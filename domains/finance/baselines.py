"""What a user would try before a network: fitted on features computed from the model's window."""

from __future__ import annotations

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from domains.finance.data.windows import Windows

LAGS = (0, 1, 2, 5, 10, 20, 50)
"""Rows back at which prices and sizes are compared, where the window is as long."""
MOST_ITEMS = 200_000
"""Training items of a fit; more are thinned evenly."""
_CUT = 10.0
_BASIS_POINTS = 1e4


def fitted_baselines(train: Windows, items: Windows, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Return class probabilities `[n, 3]` of a logistic regression and of gradient boosting.

    Args:
        train: training part.
        items: part to forecast, with the same features.
        seed: of the boosting.
    """
    step = max(1, -(-len(train) // MOST_ITEMS))
    x, label = describe(train)[::step], train.label[::step]
    if len(np.unique(label)) < 2:
        return {}
    asked = describe(items)
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    boosting = HistGradientBoostingClassifier(
        max_iter=150, learning_rate=0.05, early_stopping=False, random_state=seed
    )
    found = {}
    for name, model in (("logistic regression", linear), ("gradient boosting", boosting)):
        plain = name != "gradient boosting"
        model.fit(_finite(x) if plain else x, label)
        found[name] = _all_classes(
            model.predict_proba(_finite(asked) if plain else asked), model.classes_
        )
    return found


def describe(windows: Windows) -> np.ndarray:
    """Return what the baselines read of each window, float32 `[n, K]`.

    The last row of `relative` features, which hold moves, flows and depths already. Of prices and
    sizes, their form relative to the mid: moves of the mid, its distance from recent means, spread,
    distances and imbalances of the levels. Of FI-2010's own features, the last row.
    """
    names = windows.fitted.names
    if not names[0].startswith("ask_price") or any(name.startswith("given") for name in names):
        return windows.last()
    levels = sum(name.startswith("ask_price") for name in names)
    rows = windows.features[:, : 4 * levels].astype(np.float64)
    lags = [lag for lag in LAGS if lag < windows.lookback]
    mid = (rows[:, 0] + rows[:, 2]) / 2
    now = mid[windows.ends]
    total = np.concatenate([[0.0], np.cumsum(np.nan_to_num(mid - mid[0]))]) if len(mid) else mid
    moves = [now / mid[windows.ends - lag] - 1 for lag in lags[1:]]
    means = [
        now / ((total[windows.ends + 1] - total[windows.ends - lag]) / (lag + 1) + mid[0]) - 1
        for lag in lags[1:]
    ]
    book = rows[windows.ends]
    spread = (book[:, 0] - book[:, 2]) / now
    distances = np.concatenate([book[:, 4::4], book[:, 6::4]], axis=1) / now[:, None] - 1
    bids, asks = book[:, 3::4].cumsum(axis=1), book[:, 1::4].cumsum(axis=1)
    imbalances = (bids - asks) / np.maximum(bids + asks, 1e-12)
    found = [*moves, *means, spread]
    columns = [np.stack(found, axis=1) * _BASIS_POINTS, distances * _BASIS_POINTS, imbalances]
    return np.concatenate(columns, axis=1).astype(np.float32)


def _finite(x: np.ndarray) -> np.ndarray:
    """Replace what is unknown by 0 and cut what is extreme, which linear models cannot take."""
    middle, spread = np.nanmedian(x, axis=0), np.nanstd(x, axis=0)
    low, high = middle - _CUT * spread, middle + _CUT * spread
    return np.clip(np.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0), low, high)


def _all_classes(probability: np.ndarray, classes: np.ndarray) -> np.ndarray:
    full = np.zeros((len(probability), 3))
    full[:, classes.astype(int)] = probability
    return full

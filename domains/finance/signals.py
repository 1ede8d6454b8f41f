"""What a forecast tells a trader to do."""

from __future__ import annotations

import numpy as np

BUY, NOTHING, SELL = 1, 0, -1
DIRECTION = np.array([BUY, NOTHING, SELL], dtype=np.int8)
"""Signal of each class: 0 up, 1 stationary, 2 down."""


def signals(probability: np.ndarray, threshold: float | None = None) -> np.ndarray:
    """Return 1 (buy), -1 (sell) or 0 (nothing) for each forecast, int8 `[n]`.

    Args:
        probability: `[n, 3]` of up, stationary, down.
        threshold: None follows the likeliest class. A number follows the likelier of up and down
            where its probability is at least that, whatever stationary has: where nearly all
            labels are stationary it is never the likeliest class that a trader waits for.

    Raises:
        ValueError: the threshold is not a probability.
    """
    if threshold is None:
        return DIRECTION[probability.argmax(axis=1)]
    if not 0 < threshold <= 1:
        raise ValueError(f"signals: threshold must be above 0 and at most 1, got {threshold}")
    up, down = probability[:, 0], probability[:, 2]
    direction = np.sign(up - down).astype(np.int8)
    return np.where(np.maximum(up, down) >= threshold, direction, NOTHING).astype(np.int8)

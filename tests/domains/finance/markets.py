"""Small made-up markets that the tests of trading share."""

from __future__ import annotations

import numpy as np

from domains.finance.market import Market


def made_up_market(n: int = 400, seed: int = 0, *, series: int = 1, broken: float = 0.0) -> Market:
    """A random walk in ticks with a varying spread; a share `broken` of the rows is not tradeable.

    Prices are multiples of 1/128, so that sums of prices are exact.
    """
    rng = np.random.default_rng(seed)
    tick = 1 / 128
    bid = 100 + tick * np.cumsum(rng.integers(-2, 3, n))
    ask = bid + tick * rng.integers(1, 4, n)
    bid_size = rng.integers(1, 6, n).astype(float)
    ask_size = rng.integers(1, 6, n).astype(float)
    kind = np.where(rng.random(n) < broken, rng.integers(1, 5, n), 0)
    ask = np.where(kind == 1, bid, ask)
    ask = np.where(kind == 2, bid - tick, ask)
    bid_size = np.where(kind == 3, 0.0, bid_size)
    bid = np.where(kind == 3, np.nan, bid)
    ask_size = np.where(kind == 4, 0.0, ask_size)
    time = np.cumsum(rng.integers(1, 2 * 10**9, n)) + 34_200 * 10**9
    owner = np.sort(rng.integers(0, series, n))
    return Market(time, bid, ask, bid_size, ask_size, owner)


def some_signals(n: int, seed: int = 0, share: float = 0.4) -> np.ndarray:
    rng = np.random.default_rng(seed + 1000)
    return np.where(rng.random(n) < share, rng.choice([-1, 1], n), 0)

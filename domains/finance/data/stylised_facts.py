"""What order books of markets have in common, as numbers that can be laid side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from domains.finance.data.book import BookSeries, EventType
from domains.finance.data.order_flow import imbalance

RETURN_ROWS = 10
"""Rows of the returns whose clustering and tails are measured."""


def stylised_facts(series: Sequence[BookSeries]) -> dict[str, float]:
    """Return the facts of some books with messages, as means over the series by their rows.

    Spread, depth and event shares; autocorrelations of the changes of the mid, of the prices of
    trades (bounce between bid and ask), of absolute returns over ten rows (clustering) and of trade
    signs (persistence); excess kurtosis of these returns (heavy tails); how often the side with
    more size at the best price is where the mid moves next, over all rows and over rows with an
    imbalance beyond one half.
    """
    found = [_facts(one) for one in series if len(one) > 10 * RETURN_ROWS]
    weights = [len(one) for one in series if len(one) > 10 * RETURN_ROWS]
    names = found[0] if found else {}
    return {
        name: float(np.average([facts[name] for facts in found], weights=weights)) for name in names
    }


def _facts(one: BookSeries) -> dict[str, float]:
    events = one.events
    assert events is not None
    spread = np.rint(one.spread / one.tick)
    sizes = (np.nanmean(one.ask_size, axis=0) + np.nanmean(one.bid_size, axis=0)) / 2
    change = np.diff(one.mid)
    returns = np.diff(one.mid[::RETURN_ROWS])
    traded = events.type == EventType.EXECUTE
    signs = -events.direction[traded].astype(np.float64)
    facts = {
        "spread median, ticks": float(np.median(spread)),
        "spread of 1 or 2 ticks, share": float((spread <= 2).mean()),
        "spread mean, basis points": float((one.spread / one.mid).mean() * 1e4),
        "rows at which the mid moves, share": float((change != 0).mean()),
    }
    for level in (1, 2, 3, 5, 10):
        if level <= one.levels:
            facts[f"size at level {level}, of the mean"] = float(sizes[level - 1] / sizes.mean())
    for lag in (1, 2, 10, 50):
        facts[f"autocorrelation of mid changes, lag {lag}"] = autocorrelation(change, lag)
    facts |= {
        "autocorrelation of trade price changes, lag 1": autocorrelation(
            np.diff(events.price[traded]), 1
        ),
        "autocorrelation of absolute returns, lag 1": autocorrelation(np.abs(returns), 1),
        "autocorrelation of absolute returns, lag 10": autocorrelation(np.abs(returns), 10),
        "autocorrelation of trade signs, lag 1": autocorrelation(signs, 1),
        "autocorrelation of trade signs, lag 10": autocorrelation(signs, 10),
        "excess kurtosis of returns": _kurtosis(returns),
        "next move goes to the heavier side, share": next_move_share(one, 0.0),
        "the same beyond an imbalance of 0.5, share": next_move_share(one, 0.5),
    }
    shares = np.bincount(events.type, minlength=8) / len(one)
    for kind in EventType:
        facts[f"{kind.name.lower()} events, share"] = float(shares[kind])
    return facts


def autocorrelation(values: np.ndarray, lag: int) -> float:
    """Return the autocorrelation of `[N]` at a lag; 0 where there are too few or they are equal."""
    distance = values - values.mean() if len(values) else values
    power = float(distance @ distance)
    return float(distance[lag:] @ distance[:-lag]) / power if len(values) > lag and power else 0.0


def next_move_share(one: BookSeries, beyond: float) -> float:
    """Return how often the mid next moves towards the side with less size at the best price.

    That is up where the bid is larger. Rows count whose imbalance lies beyond a value.
    """
    change = np.sign(np.diff(one.mid))
    rows = np.arange(len(change))
    following = np.minimum.accumulate(np.where(change != 0, rows, len(rows))[::-1])[::-1]
    lean = imbalance(one)[:-1]
    counted = (following < len(rows)) & (np.abs(lean) > beyond)
    agree = change[following[counted]] == np.sign(lean[counted])
    return float(agree.mean()) if len(agree) else 0.5


def _kurtosis(values: np.ndarray) -> float:
    distance = values - values.mean()
    variance = (distance**2).mean()
    return float((distance**4).mean() / variance**2 - 3) if variance > 0 else 0.0

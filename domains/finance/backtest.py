"""Event-time backtest of forecasts as market orders that cross the spread.

What is modelled: the order reaches the book `latency` events after the forecast and trades at the
best price shown then, for at most the size shown there; fees per side; position limit; least time
between orders; every position is closed at the touch of its series' last tradeable row.

What is not: orders that walk the book (an order larger than the size shown is filled in part and
its rest forgotten), resting orders and queues, the reaction of other traders, borrowing and
financing. The end of a series is treated as known, like the close of trading: where a series ends
in a halt, leaving at the last price before it flatters the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import pandas as pd

from domains.finance.market import Market
from domains.finance.signals import signals

_DUST = 1e-9
"""Share of the position limit below which a position is rounding."""


@dataclass(frozen=True, kw_only=True)
class Trading:
    """How forecasts are traded.

    Attributes:
        threshold: of `signals.signals`; None trades the likeliest class.
        latency: events between a forecast and its order at the book. 0 trades at the very prices
            that the forecast was made from, which no one can.
        size: units of an order.
        max_position: largest position either way; 0 is `size`. Above `size`, every further signal
            of the same direction adds an order.
        fee_bps: fee of each side, in basis points of what is paid.
        fee_per_share: fee of each side, per unit.
        min_hold: least number of events between orders, which limits turnover.
        stationary: a stationary forecast leaves a position ("hold") or closes it ("close").
    """

    threshold: float | None = None
    latency: int = 1
    size: float = 1.0
    max_position: float = 0.0
    fee_bps: float = 0.0
    fee_per_share: float = 0.0
    min_hold: int = 1
    stationary: Literal["hold", "close"] = "hold"

    def __post_init__(self) -> None:
        if self.latency < 0 or self.min_hold < 1 or self.size <= 0 or self.max_position < 0:
            raise ValueError(
                "Trading: expected latency and max_position of at least 0, min_hold of at least 1 "
                f"and a positive size, got {self}"
            )

    @property
    def limit(self) -> float:
        """Largest position either way."""
        return self.max_position or self.size


@dataclass(frozen=True)
class Ledger:
    """What a backtest did, with `net = gross - spread - fee` for every trade.

    Attributes:
        trades: one row per trade, from flat to flat: `open_row`, `close_row`, `open_time`,
            `close_time`, `series`, `side`, `size`, `open_price`, `close_price` (averages), `gross`
            (at mid prices), `spread` (paid for crossing), `fee`, `net`, `at_end` (closed only
            because its series ended).
        equity: float64 `[M]`, net result with the open position at the mid.
        liquidation: float64 `[M]`, the same with the position at the touch, fees paid.
        position: float64 `[M]`, after what traded at the row.
        traded: float64, sum of price times size over all sides.
        market: that it traded in.
        trading: how.
    """

    trades: pd.DataFrame
    equity: np.ndarray
    liquidation: np.ndarray
    position: np.ndarray
    traded: float
    market: Market
    trading: Trading


def backtest(
    probability: np.ndarray, ends: np.ndarray, market: Market, trading: Trading | None = None
) -> Ledger:
    """Trade forecasts.

    Args:
        probability: `[n, 3]` of up, stationary, down.
        ends: int64 `[n]`, row of `market` after which each forecast is made, ascending.
        market: M rows.
        trading: how; the defaults of `Trading` where None.
    """
    trading = trading or Trading()
    return trade(signals(probability, trading.threshold), ends, market, trading)


def trade(signal: np.ndarray, ends: np.ndarray, market: Market, trading: Trading) -> Ledger:
    """Trade signals.

    Args:
        signal: integers `[n]`, 1 buy, -1 sell, 0 as `trading.stationary` says.
        ends: int64 `[n]`, rows of `market`, ascending.
        market: M rows.
        trading: how.

    Raises:
        ValueError: shapes disagree, or `ends` is not ascending within the market.
    """
    if len(signal) != len(ends) or (len(ends) > 1 and not (np.diff(ends) > 0).all()):
        raise ValueError(
            f"trade: expected one signal for each of ascending ends, got {len(signal)} signals "
            f"and {len(ends)} ends"
        )
    if len(ends) and not 0 <= ends[0] <= ends[-1] < len(market):
        raise ValueError(
            f"trade: expected ends within the {len(market)} rows of the market, got {ends[0]} to "
            f"{ends[-1]}"
        )
    if trading.stationary == "hold":
        signal, ends = signal[signal != 0], ends[signal != 0]
    rows: list[int] = []
    quantities: list[float] = []
    closings: list[int] = []
    places = np.searchsorted(ends, market.edges)
    for part, (first, stop) in enumerate(pairwise(places.tolist())):
        if first == stop:
            continue
        last = int(market.edges[part + 1]) - 1
        position = _orders(
            signal[first:stop], ends[first:stop], last, market, trading, rows, quantities
        )
        if position:
            closings.append(len(rows))
            rows.append(int(market.last_tradeable[last]))
            quantities.append(-position)
    return _ledger(np.array(rows, dtype=np.int64), np.array(quantities), closings, market, trading)


def _orders(
    signal: np.ndarray,
    ends: np.ndarray,
    last: int,
    market: Market,
    trading: Trading,
    rows: list[int],
    quantities: list[float],
) -> float:
    """Append the fills of one series to `rows` and `quantities`; return the position left.

    Only orders are looped over: the next signal that could change the position is looked up.
    """
    size, limit, latency = trading.size, trading.limit, trading.latency
    dust, count = _DUST * limit, len(signal)
    wait, retry = max(trading.min_hold, latency, 1), max(latency, 1)
    buy, flat, sell = (_next(signal == kind) for kind in (1, 0, -1))
    after_fill = np.searchsorted(ends, ends + wait).tolist()
    after_miss = np.searchsorted(ends, ends + retry).tolist()
    kinds, arrivals = signal.tolist(), (ends + latency).tolist()
    tradeable, ask_size, bid_size = market.tradeable, market.ask_size, market.bid_size
    position, item = 0.0, 0
    while item < count:
        chosen = buy[item] if position < limit - dust else count
        if position > dust - limit:
            chosen = min(chosen, sell[item])
        if position:
            chosen = min(chosen, flat[item])
        if chosen == count:
            break
        row, kind = arrivals[chosen], kinds[chosen]
        if row >= last:
            break
        if not tradeable[row]:
            item = after_miss[chosen]
            continue
        target = 0.0
        if kind:
            target = kind * min(max(kind * position, 0.0) + size, limit)
        wanted = target - position
        shown = float(ask_size[row] if wanted > 0 else bid_size[row])
        filled = min(abs(wanted), shown) if shown == shown else abs(wanted)
        rows.append(row)
        quantities.append(filled if wanted > 0 else -filled)
        position += quantities[-1]
        if -dust < position < dust:
            quantities[-1] -= position
            position = 0.0
        item = after_fill[chosen]
    return position


def _next(matches: np.ndarray) -> list[int]:
    """Return, for each item, the first item from it on that matches, or their number."""
    count = len(matches)
    places = np.where(matches, np.arange(count), count)
    return np.minimum.accumulate(places[::-1])[::-1].tolist()


def _ledger(
    rows: np.ndarray,
    quantities: np.ndarray,
    closings: list[int],
    market: Market,
    trading: Trading,
) -> Ledger:
    count = len(market)
    price = np.where(quantities > 0, market.ask[rows], market.bid[rows])
    fee = _fee(quantities, price, trading)
    position = _total(rows, quantities, count)
    position[np.abs(position) < _DUST * trading.limit] = 0.0
    cash = _total(rows, -quantities * price - fee, count)
    touch = np.where(position > 0, market.marked(market.bid), market.marked(market.ask))
    at_end = np.zeros(len(rows), dtype=bool)
    at_end[closings] = True
    return Ledger(
        _trades(rows, quantities, price, fee, at_end, market, trading),
        cash + position * market.marked(market.mid),
        cash + position * touch - _fee(position, touch, trading),
        position,
        float((np.abs(quantities) * price).sum()),
        market,
        trading,
    )


def _trades(
    rows: np.ndarray,
    quantities: np.ndarray,
    price: np.ndarray,
    fee: np.ndarray,
    at_end: np.ndarray,
    market: Market,
    trading: Trading,
) -> pd.DataFrame:
    """Cut the fills at which the position turns in two, and add up from flat to flat."""
    after = np.cumsum(quantities)
    after[np.abs(after) < _DUST * trading.limit] = 0.0
    before = np.concatenate([[0.0], after[:-1]]) if len(after) else after
    turns = before * after < 0
    fills = np.repeat(np.arange(len(rows)), 1 + turns)
    second = np.zeros(len(fills), dtype=bool)
    second[1:] = fills[1:] == fills[:-1]
    first = turns[fills] & ~second
    quantity = np.where(first, -before[fills], np.where(second, after[fills], quantities[fills]))
    opens = second | (before[fills] == 0)
    starts = np.flatnonzero(opens)
    stops = np.append(starts, len(fills))[1:]
    grows = second | (np.abs(after[fills]) > np.abs(before[fills])) & ~first
    size = np.abs(quantity)
    half = market.spread[rows][fills] / 2

    def total(values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values, starts) if len(starts) else np.zeros(0)

    grown = total(size * grows)
    paid = price[fills] * size
    gross = total(-quantity * market.mid[rows][fills])
    spread = total(size * half)
    fees = total(fee[fills] * size / np.abs(quantities[fills]))
    leg_rows = rows[fills]
    return pd.DataFrame(
        {
            "open_row": leg_rows[starts],
            "close_row": leg_rows[stops - 1],
            "open_time": market.time[leg_rows[starts]],
            "close_time": market.time[leg_rows[stops - 1]],
            "series": market.series[leg_rows[starts]],
            "side": np.sign(quantity[starts]).astype(np.int8),
            "size": grown,
            "open_price": total(paid * grows) / np.where(grown > 0, grown, 1),
            "close_price": total(paid * ~grows) / np.where(grown > 0, grown, 1),
            "gross": gross,
            "spread": spread,
            "fee": fees,
            "net": gross - spread - fees,
            "at_end": at_end[fills[stops - 1]],
        }
    )


def _fee(quantity: np.ndarray, price: np.ndarray, trading: Trading) -> np.ndarray:
    per_unit = price * trading.fee_bps / 1e4 + trading.fee_per_share
    return np.where(quantity == 0, 0.0, np.abs(quantity) * per_unit)


def _total(rows: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    return np.cumsum(np.bincount(rows, values, minlength=count))

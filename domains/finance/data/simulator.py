"""An order-driven market that writes what an exchange would: messages and the book behind each.

Zero intelligence with a memory: orders arrive without a view on value (Daniels, Farmer, Gillemot,
Iori and Smith 2003), but their rates depend on the state of the book and of the market. Limit
orders fill wide spreads, cancellations grow with the number of orders, trades excite trades and
prefer the side that the sizes at the best prices point to (Hawkes arrivals in clock time; in event
time the same for trades), large orders are cut into runs of trades of one sign, and a hidden
pressure that reverts to zero tilts both sides. Every order lies within the visible levels when it
is sent and is only cancelled or executed there (those below are deleted
before a halt), so replaying the messages from the first book gives
every later book exactly.
"""

from __future__ import annotations

from array import array
from bisect import insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from scipy.signal import lfilter

from domains.finance.data.book import BookSeries, Events, EventType

_NONE = 1 << 60
_SECOND = 1_000_000_000
_OPEN, _CLOSE = 34_200, 57_600
_WARM_UP = 4000


@dataclass(frozen=True, kw_only=True)
class Market:
    """What one instrument trades like. Rates are relative to that of limit orders, which is 1."""

    instrument: str = "SIMA"
    price: float = 100.0
    """Of the first day's opening."""
    tick: float = 0.01
    levels: int = 10
    lot: int = 100
    trades: float = 0.075
    """Rate of market orders in quiet times."""
    excitement: float = 0.015
    """What each trade adds to that rate; it fades over some fifty events."""
    cancellations: float = 0.011
    """Rate of each visible order."""
    hidden: float = 0.015
    """Rate of executions of hidden orders."""
    pressure: float = 0.9
    """Size of the hidden pressure on both sides."""
    resilience: float = 0.25
    """How much likelier a limit order in a wide spread takes back the last move."""
    volatility: float = 0.5
    """Standard deviation of the logarithm of the slow factor on the rate of trades."""
    depth: tuple[float, ...] = (
        *(0.20, 0.17, 0.14, 0.11, 0.09, 0.07, 0.06, 0.05, 0.04, 0.03, 0.02, 0.01, 0.01),
    )
    """Shares of limit orders by ticks behind the best price."""


@dataclass
class _Side:
    """One side; keys are prices in ticks, negated for bids, so that the best is always least."""

    sign: int
    levels: int
    keys: list[int] = field(default_factory=list)
    queues: dict[int, list[list[int]]] = field(default_factory=dict)
    """By key, orders `[id, size]`, oldest first."""
    totals: dict[int, int] = field(default_factory=dict)
    shown_keys: list[int] = field(default_factory=list)
    shown_sizes: list[int] = field(default_factory=list)
    orders: int = 0
    """Visible orders."""

    def add(self, key: int, order: int, size: int) -> None:
        queue = self.queues.get(key)
        if queue is None:
            insort(self.keys, key)
            self.queues[key] = [[order, size]]
            self.totals[key] = size
        else:
            queue.append([order, size])
            self.totals[key] += size
        self.show()

    def take(self, key: int, place: int, size: int) -> None:
        """Take `size` from the order at `place` of a queue; it goes when nothing is left."""
        queue = self.queues[key]
        left = queue[place][1] - size
        self.totals[key] -= size
        if left:
            queue[place][1] = left
        else:
            del queue[place]
            if not queue:
                self.keys.remove(key)
                del self.queues[key], self.totals[key]
        self.show()

    def show(self) -> None:
        """Bring what is visible up to date."""
        shown = self.keys[: self.levels]
        totals, queues = self.totals, self.queues
        self.shown_keys = shown
        self.shown_sizes = [totals[key] for key in shown]
        self.orders = sum([len(queues[key]) for key in shown])
        missing = self.levels - len(shown)
        if missing:
            self.shown_keys = shown + [_NONE] * missing
            self.shown_sizes += [0] * missing

    def forget_deeper(self) -> None:
        """Drop what is below the visible levels."""
        for key in self.keys[self.levels :]:
            del self.queues[key], self.totals[key]
        del self.keys[self.levels :]
        self.show()


def _uniforms(rng: np.random.Generator) -> Iterator[float]:
    while True:
        yield from rng.random(16384).tolist()


class _Day:
    """The book of one day and the messages so far."""

    def __init__(self, market: Market, open_tick: int, rng: np.random.Generator) -> None:
        self.market, self.rng = market, rng
        self.draw = _uniforms(rng).__next__
        self.asks, self.bids = _Side(1, market.levels), _Side(-1, market.levels)
        self.next_id = 1_000_000
        self.messages: list[tuple[int, int, int, int, int, int]] = []
        self.books = tuple(array("q") for _ in range(4))
        shares = np.cumsum(market.depth) / np.sum(market.depth)
        self.depths = np.searchsorted(shares, (np.arange(512) + 0.5) / 512).tolist()
        self.run_sign, self.run_left, self.excited = 1, 0, 0.0
        self.moved, self.twice_mid = 1, 2 * open_tick
        for side, best in ((self.asks, open_tick + 1), (self.bids, -open_tick)):
            for depth in range(market.levels):
                for _ in range(3):
                    side.add(best + depth, self._id(), self._size())

    def _id(self) -> int:
        self.next_id += 1 + int(3 * self.draw())
        return self.next_id

    def _size(self) -> int:
        """Mostly one lot, sometimes several, with a heavy tail, and odd lots."""
        draw = self.draw()
        if draw < 0.1:
            return max(1, int(10 * draw * self.market.lot))
        return self.market.lot * min(20, max(1, int(0.8 * (1.001 - draw) ** -0.7)))

    def record(self, event: int, kind: int, order: int, size: int, tick: int, side: int) -> None:
        """Add a message and the book after it."""
        self.messages.append((event, kind, order, size, tick, side))
        asks, bids = self.asks, self.bids
        columns = self.books
        columns[0].extend(asks.shown_keys)
        columns[1].extend(asks.shown_sizes)
        columns[2].extend(bids.shown_keys)
        columns[3].extend(bids.shown_sizes)

    def step(self, event: int, tilt: float, volatility: float) -> None:
        """Let one order arrive: a limit order, a cancellation, a trade or a hidden one."""
        market, draw = self.market, self.draw
        asks, bids = self.asks, self.bids
        trades = market.trades * volatility + self.excited
        cancellations = market.cancellations * (asks.orders + bids.orders)
        self.excited *= 0.98
        twice_mid = asks.keys[0] - bids.keys[0]
        if twice_mid != self.twice_mid:
            self.moved = 1 if twice_mid > self.twice_mid else -1
            self.twice_mid = twice_mid
        kind = draw() * (1 + trades + cancellations + market.hidden)
        if kind < 1:
            refill = market.resilience * self.moved if asks.keys[0] + bids.keys[0] > 1 else 0.0
            self._limit(event, draw() < 0.5 + 0.28 * tilt - refill)
        elif kind < 1 + cancellations:
            weight = asks.orders * (1 + 0.45 * tilt)
            other = bids.orders * (1 - 0.45 * tilt)
            self._cancel(event, asks if draw() * (weight + other) < weight else bids)
        elif kind < 1 + cancellations + trades:
            self._trade(event, tilt)
        else:
            self._hidden(event)

    def _limit(self, event: int, buys: bool) -> None:
        draw = self.draw
        side, other = (self.bids, self.asks) if buys else (self.asks, self.bids)
        best = side.keys[0]
        spread = best + other.keys[0]
        if spread > 1 and draw() < min(0.85, 0.45 * (spread - 1)):
            key = best - 1 - int(draw() * draw() * (spread - 1))
        else:
            key = best + self.depths[int(512 * draw())]
            if len(side.keys) >= side.levels:
                key = min(key, side.keys[side.levels - 1])
        order, size = self._id(), self._size()
        side.add(key, order, size)
        self.record(event, EventType.SUBMIT, order, size, side.sign * key, -side.sign)

    def _cancel(self, event: int, side: _Side) -> None:
        draw = self.draw
        if len(side.keys) <= 2:
            self._limit(event, side.sign < 0)
            return
        place = int(draw() * side.orders)
        if draw() < 0.25:
            place = min(place, len(side.queues[side.keys[0]]) - 1)
        for key in side.keys:
            queue = side.queues[key]
            if place < len(queue):
                break
            place -= len(queue)
        order, size = queue[place]
        kind = EventType.DELETE
        if size > 1 and draw() < 0.15:
            kind = EventType.CANCEL
            size = max(1, size // 2)
        side.take(key, place, size)
        self.record(event, kind, order, size, side.sign * key, -side.sign)

    def _trade(self, event: int, tilt: float) -> None:
        draw = self.draw
        asks, bids = self.asks, self.bids
        if self.run_left <= 0:
            ask, bid = asks.shown_sizes[0], bids.shown_sizes[0]
            lean = (bid - ask) / (bid + ask)
            self.run_sign = 1 if draw() < 0.5 + 0.25 * lean + 0.25 * tilt else -1
            self.run_left = min(60, int((1.0001 - draw()) ** -0.6))
        self.run_left -= 1
        self.excited = min(self.excited + self.market.excitement, 0.6)
        side = asks if self.run_sign > 0 else bids
        if len(side.keys) <= 3:
            self._limit(event, side.sign < 0)
            return
        size = self._size()
        if draw() < 0.35:
            size = max(size, side.shown_sizes[0])
        last = side.keys[2]
        while size > 0 and side.keys[0] < last:
            key = side.keys[0]
            order, there = side.queues[key][0]
            taken = min(size, there)
            side.take(key, 0, taken)
            size -= taken
            self.record(event, EventType.EXECUTE, order, taken, side.sign * key, -side.sign)

    def _hidden(self, event: int) -> None:
        """Execute a hidden order inside the spread, or at the best price where there is no room."""
        draw = self.draw
        sign = 1 if draw() < 0.5 else -1
        side, other = (self.asks, self.bids) if sign > 0 else (self.bids, self.asks)
        inside = side.keys[0] + other.keys[0] - 1
        key = side.keys[0] - (1 + int(draw() * inside) if inside > 0 else 0)
        self.record(event, EventType.EXECUTE_HIDDEN, 0, self._size(), sign * key, -sign)

    def clear_deeper(self, event: int) -> None:
        """Delete every order below the visible levels, as before a halt."""
        for side in (self.asks, self.bids):
            for key in side.keys[side.levels :]:
                while key in side.queues:
                    order, size = side.queues[key][0]
                    side.take(key, 0, size)
                    self.record(event, EventType.DELETE, order, size, side.sign * key, -side.sign)


def simulate_day(
    market: Market,
    events: int,
    seed: int,
    *,
    day: str = "2024-03-04",
    halts: Sequence[tuple[float, float]] = (),
    open_price: float | None = None,
) -> list[BookSeries]:
    """Simulate one day from 09:30 to 16:00.

    Args:
        market: what is traded.
        events: messages, about; a trade that meets several orders gives one for each.
        seed: the same seed gives the same day.
        day: ISO date.
        halts: place of each halt as a share of the day's messages, and its length in seconds.
        open_price: price about which the day opens; the market's where None.

    Returns:
        The stretches between halts, in order.
    """
    rng = np.random.default_rng(seed)
    start = market.price if open_price is None else open_price
    one = _Day(market, round(start / market.tick), rng)
    steps = events + _WARM_UP
    tilt = np.tanh(market.pressure * _reverting(rng, steps, 0.985)).tolist()
    level = np.exp(market.volatility * _reverting(rng, steps, 0.9993)).tolist()
    for step in range(_WARM_UP):
        one.step(0, tilt[step], level[step])
    one.messages.clear()
    one.books = tuple(array("q") for _ in range(4))
    one.asks.forget_deeper()
    one.bids.forget_deeper()
    waiting = sorted(halts)
    breaks: list[tuple[int, float]] = []
    step = 0
    while len(one.messages) < events:
        one.step(step, tilt[_WARM_UP + step], level[_WARM_UP + step])
        if step == 0:
            one.asks.forget_deeper()
            one.bids.forget_deeper()
        while waiting and len(one.messages) >= waiting[0][0] * events:
            one.clear_deeper(step)
            breaks.append((len(one.messages), waiting.pop(0)[1]))
        step += 1
    return _stretches(one, step, rng, day, breaks)


def _stretches(
    one: _Day, steps: int, rng: np.random.Generator, day: str, breaks: Sequence[tuple[int, float]]
) -> list[BookSeries]:
    """Return the day cut after the messages at which it was halted, for some seconds each."""
    market = one.market
    step, kind, order, size, tick, side = np.array(one.messages, np.int64).T
    rows = len(step)
    book = np.empty((rows, market.levels, 4))
    for column, (values, sign) in enumerate(zip(one.books, (1, 0, -1, 0), strict=True)):
        found = np.frombuffer(values, np.int64).reshape(rows, -1)
        empty = np.abs(found) == _NONE
        book[:, :, column] = _prices(sign * found, market.tick) if sign else found
        book[:, :, column][empty] = np.nan
    edges = [0, *(after for after, _ in breaks), rows]
    lengths = [length for _, length in breaks]
    time = _clock(rng, steps, sum(lengths))[step]
    stretches = []
    for number, (first, stop) in enumerate(pairwise(edges)):
        chosen = slice(first, stop)
        halted = round(sum(lengths[:number]) * _SECOND)
        stretches.append(
            BookSeries(
                market.instrument,
                day,
                time[chosen] + halted,
                book[chosen].reshape(stop - first, -1),
                f"simulated {market.instrument} {day}",
                first_row=first + 1 + 2 * number,
                tick=market.tick,
                events=Events(
                    kind[chosen].astype(np.int8),
                    order[chosen],
                    size[chosen].astype(np.float64),
                    _prices(tick[chosen], market.tick),
                    side[chosen].astype(np.int8),
                ),
            )
        )
    return stretches


def _prices(ticks: np.ndarray, tick: float) -> np.ndarray:
    """Return prices that are the nearest float64 to their decimal."""
    return np.round(ticks * tick, 8)


def _clock(rng: np.random.Generator, steps: int, halted: float) -> np.ndarray:
    """Return the nanosecond of each step: arrivals excite arrivals, most at open and close.

    A Hawkes process with an exponential kernel, by thinning; its time is stretched to the day.
    """
    branching, decay = 0.75, 4.0
    draws, gaps = _uniforms(rng).__next__, iter(rng.exponential(size=12 * steps + 1000).tolist())
    now, excited, times = 0.0, 0.0, []
    for step in range(steps):
        base = (1 - branching) * (0.6 + 1.2 * (2 * step / steps - 1) ** 2)
        while True:
            most = base + excited
            gap = next(gaps) / most
            now += gap
            excited *= 2.718281828459045 ** (-decay * gap)
            if draws() * most <= base + excited:
                break
        excited += branching * decay
        times.append(now)
    scale = (_CLOSE - _OPEN - halted - 1) / now
    return (_OPEN * _SECOND + np.array(times) * scale * _SECOND).astype(np.int64)


def _reverting(rng: np.random.Generator, steps: int, memory: float) -> np.ndarray:
    """Return a stationary first-order autoregression of unit variance."""
    drive = rng.normal(0, np.sqrt(1 - memory**2), steps)
    drive[0] = rng.normal()
    return lfilter([1.0], [1.0, -memory], drive)

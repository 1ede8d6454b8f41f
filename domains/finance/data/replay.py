"""One pass over order messages that keeps both sides of a book."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from domains.finance.data.book import EventType
from domains.finance.data.lobster_csv import EMPTY


class Vanished(NamedTuple):
    """A level that a message proves empty though no message took its orders.

    Orders whose end was outside the covered levels stay in a replay until their price is covered
    again; then an execution at a worse price, or an order of the other side that should have met
    them, shows that they are gone.
    """

    row: int
    """The message that proves it."""
    side: int
    """1 bid, -1 ask."""
    price: int
    size: int


class Side:
    """Levels of one side, best first; prices of bids are negated, so that both ascend.

    Args:
        levels: How many are shown.
        covered: How many the messages cover.
        bound: Price up to which every level is known.
    """

    def __init__(self, levels: int, covered: int | None, bound: int) -> None:
        self.prices: list[int] = []
        self.sizes: list[int] = []
        self.levels, self.covered, self.bound = levels, covered or 1 << 62, bound
        self.unnamed: dict[int, int] = {}
        self.tops: list[list[int]] = []
        self.known: list[int] = []

    def change(self, price: int, amount: int) -> tuple[int, int]:
        """Add to a level; return its place from 0, and what it lacked of a negative amount."""
        prices, sizes = self.prices, self.sizes
        place = bisect_left(prices, price)
        if place < len(prices) and prices[place] == price:
            left = sizes[place] + amount
            if left > 0:
                sizes[place] = left
                return place, 0
            del prices[place], sizes[place]
            return place, -left
        if amount <= 0:
            return place, -amount
        prices.insert(place, price)
        sizes.insert(place, amount)
        if self.unnamed and len(prices) > self.covered:
            self._forget(self.covered)
        return place, 0

    def _forget(self, place: int) -> None:
        """Take what no later message names from a level that is not covered any more."""
        size = self.unnamed.pop(self.prices[place], 0)
        if size < self.sizes[place]:
            self.sizes[place] -= size
        else:
            del self.prices[place], self.sizes[place]

    def learn(self, price: int, place: int) -> None:
        """Update the price up to which all is known, after a message at `place`.

        A message says that its price is among the covered levels; where all levels before it are
        known and fill the others, none is missing between, though the level itself may hold
        orders that came unseen. Levels pushed out of the covered ones may change unseen.
        """
        covered = self.covered
        if price > self.bound and place == covered - 1:
            if bisect_right(self.prices, self.bound) == place:
                self.bound = price - 1
        elif len(self.prices) > covered and self.prices[covered - 1] < self.bound:
            self.bound = self.prices[covered - 1]

    def drop(self, count: int) -> list[tuple[int, int]]:
        """Take the best levels out; return their prices and sizes."""
        gone = list(zip(self.prices[:count], self.sizes[:count], strict=True))
        del self.prices[:count], self.sizes[:count]
        return gone

    def show(self) -> None:
        """Keep the best levels as they are now."""
        levels = self.levels
        prices, sizes = self.prices[:levels], self.sizes[:levels]
        if len(prices) < levels:
            missing = levels - len(prices)
            prices += [EMPTY] * missing
            sizes += [0] * missing
        self.tops.append(prices + sizes)
        known = levels if self.bound >= EMPTY else bisect_right(self.prices, self.bound)
        self.known.append(min(known, levels))


@dataclass
class Replay:
    """What a pass leaves besides the states kept by both sides."""

    rows: list[int] = field(default_factory=list)
    """Messages that have a book row."""
    at: list[tuple[int, int]] = field(default_factory=list)
    """State of the asks and of the bids after each of them."""
    overdrawn: list[int] = field(default_factory=list)
    """Messages that take more than their order or level holds."""
    vanished: list[Vanished] = field(default_factory=list)

    def book(self, ask: Side, bid: Side) -> np.ndarray:
        """Return the rows, int64 `[K, 4 L]`."""
        levels = ask.levels
        tops = np.array(self.at, dtype=np.int64).reshape(-1, 2)
        asks, bids = np.array(ask.tops, dtype=np.int64), np.array(bid.tops, dtype=np.int64)
        book = np.empty((len(tops), 4 * levels), dtype=np.int64)
        book[:, 0::4], book[:, 1::4] = np.split(asks[tops[:, 0]], 2, axis=1)
        book[:, 2::4], book[:, 3::4] = np.split(bids[tops[:, 1]], 2, axis=1)
        book[:, 2::4] *= -1
        return book


def replay(
    columns: list[list[int]],
    orders: dict[int, int],
    ask: Side,
    bid: Side,
    unnamed: dict[int, int] | None,
) -> Replay:
    """Apply messages to both sides.

    Args:
        columns: Row of the message file (-1 for what no message says), type, order id, size,
            price and direction of each message.
        orders: Remaining size of every order before the first message; changed.
        ask: Asks before the first message; changed.
        bid: Bids before the first message; changed.
        unnamed: Size of each submitted order that no message takes; it goes when its level is not
            covered any more, and levels that a message proves empty go then. None to let both be.
    """
    out = Replay()
    rows, at, overdrawn = out.rows, out.at, out.overdrawn
    levels, careful, forgotten = ask.levels, unnamed is not None, unnamed or {}
    sides = {-1: (ask, bid), 1: (bid, ask)}
    submit, delete, execute = int(EventType.SUBMIT), int(EventType.DELETE), int(EventType.EXECUTE)
    for row, kind, order, size, price, direction in zip(*columns, strict=True):
        if kind <= execute:
            side, other = sides[direction]
            key = -direction * price
            if kind == submit:
                orders[order] = orders.get(order, 0) + size
                amount = size
                if careful and row >= 0 and other.prices and other.prices[0] <= -key:
                    gone = other.drop(bisect_right(other.prices, -key))
                    out.vanished += [Vanished(row, -direction, direction * p, s) for p, s in gone]
                    other.show()
                if order in forgotten:
                    side.unnamed[key] = side.unnamed.get(key, 0) + forgotten[order]
            else:
                held = orders.get(order, 0)
                amount = -held if kind == delete or size > held else -size
                if held + amount:
                    orders[order] = held + amount
                else:
                    orders.pop(order, None)
                if size > held and row >= 0:
                    overdrawn.append(row)
            place, lacking = side.change(key, amount)
            if lacking and row >= 0:
                overdrawn.append(row)
            if row >= 0:
                side.learn(key, place)
                if kind == execute and place and careful:
                    gone = side.drop(place)
                    out.vanished += [Vanished(row, direction, -direction * p, s) for p, s in gone]
                    place = 0
            if place >= levels:
                continue
            side.show()
            if row < 0:
                continue
        rows.append(row)
        at.append((len(ask.tops) - 1, len(bid.tops) - 1))
    return out

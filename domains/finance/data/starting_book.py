"""The book before the first message: given in part, and what later messages tell of the rest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv

from domains.finance.data.book import EventType
from domains.finance.data.lobster_csv import EMPTY, Messages
from shared_runtime.errors import DataError

_COLUMNS = ("price", "size", "side")


@dataclass(frozen=True)
class StartingBook:
    """Price levels, or orders, in LOBSTER's units.

    Attributes:
        price: int64 `[K]`.
        size: int64 `[K]`.
        side: int64 `[K]`: 1 bid, -1 ask.
        order_id: int64 `[K]`; 0 for whole levels.
        after_first: Whether it is the state after the first message instead of before it.
        worst_ask: Highest ask price up to which every level is there; `EMPTY` where all are.
        worst_bid: Lowest bid price up to which every level is there; `-EMPTY` where all are.
    """

    price: np.ndarray
    size: np.ndarray
    side: np.ndarray
    order_id: np.ndarray
    after_first: bool
    worst_ask: int
    worst_bid: int


@dataclass(frozen=True)
class Inferred:
    """Orders that no message submitted but later ones name.

    Attributes:
        order_id: int64 `[K]`.
        price: int64 `[K]`.
        size: int64 `[K]`, the sum of what is taken from them.
        side: int64 `[K]`: 1 bid, -1 ask.
        before: int64 `[K]`, the message that they entered before; 0 if there at the start.
        shown: bool `[K]`, whether a level of the starting book holds them.
    """

    order_id: np.ndarray
    price: np.ndarray
    size: np.ndarray
    side: np.ndarray
    before: np.ndarray
    shown: np.ndarray

    def __len__(self) -> int:
        return len(self.order_id)


def book_row(row: np.ndarray) -> StartingBook:
    """Return the starting book that an order book row, int64 `[4 L]`, shows after its message."""
    ask, bid = row[0::4], row[2::4]
    price = np.concatenate([ask, bid])
    size = np.concatenate([row[1::4], row[3::4]])
    side = np.repeat([-1, 1], len(ask))
    there = np.abs(price) != EMPTY
    price, size, side = price[there], size[there], side[there]
    ends = (int(ask[-1]), int(bid[-1]))
    return StartingBook(price, size, side, np.zeros_like(price), True, *ends)


def read_starting_book(path: Path) -> StartingBook:
    """Read a starting book.

    Either an order book file of LOBSTER, whose first row is the state after the first message, or
    a CSV file with a header: `price,size,side` (price in ten-thousandths, side 1 for bids and -1
    for asks) gives the levels before the first message, and with `order_id` every single order.

    Raises:
        DataError: the file is neither.
    """
    try:
        with path.open("rb") as file:
            first = file.readline(1 << 20).decode("utf-8-sig", errors="replace").strip()
        if not any(letter.isalpha() for letter in first):
            return book_row(_first_row(path, first))
        table = csv.read_csv(path)
    except (OSError, pa.ArrowInvalid) as error:
        text = " ".join(str(error).split())[:150]
        raise DataError(f"{path}: not readable ({text}); give a starting book") from error
    missing = [name for name in _COLUMNS if name not in table.column_names]
    if missing:
        raise DataError(f"{path}: no column {missing[0]!r}; a starting book has price,size,side")
    orders = "order_id" in table.column_names
    names = (*_COLUMNS, "order_id") if orders else _COLUMNS
    try:
        price, size, side, *ids = (
            table.column(name).cast(pa.int64()).to_numpy(zero_copy_only=False).astype(np.int64)
            for name in names
        )
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise DataError(
            f"{path}: a cell of {', '.join(names)} is not a whole number; correct it"
        ) from error
    wrong = np.flatnonzero((np.abs(side) != 1) | (size <= 0) | (price <= 0) | (price >= EMPTY))
    if len(wrong):
        raise DataError(
            f"{path}: row {wrong[0] + 2}: expected price and size above 0, side 1 or -1; correct it"
        )
    if orders:
        return StartingBook(price, size, side, ids[0], False, EMPTY, -EMPTY)
    worst_ask = int(price[side < 0].max(initial=0))
    worst_bid = int(price[side > 0].min(initial=EMPTY))
    return StartingBook(price, size, side, np.zeros_like(price), False, worst_ask, worst_bid)


def _first_row(path: Path, line: str) -> np.ndarray:
    try:
        row = np.array([int(cell) for cell in line.split(",")], dtype=np.int64)
    except (ValueError, OverflowError):
        row = np.zeros(0, dtype=np.int64)
    if not len(row) or len(row) % 4:
        raise DataError(f"{path}: row 1: not four numbers for each level; give an order book file")
    return row


def before_first(start: StartingBook, messages: Messages) -> StartingBook:
    """Return the book before the first message, where `start` is the one after it."""
    if not start.after_first:
        return start
    if not len(messages) or messages.type[0] > EventType.EXECUTE:
        return replace(start, after_first=False)
    price, side = int(messages.price[0]), int(messages.direction[0])
    given = -1 if messages.type[0] == EventType.SUBMIT else 1
    level = (start.price == price) & (start.side == side) & (start.order_id == 0)
    if not level.any():
        columns = (start.price, start.size, start.side, start.order_id)
        added = zip(columns, (price, 0, side, 0), strict=True)
        prices, sizes, sides, ids = (np.append(column, value) for column, value in added)
        start = replace(start, price=prices, size=sizes, side=sides, order_id=ids)
        level = np.append(level, True)
    size = start.size + np.where(level, given * messages.size[0], 0)
    kept = size > 0
    return StartingBook(
        start.price[kept],
        size[kept],
        start.side[kept],
        start.order_id[kept],
        False,
        start.worst_ask,
        start.worst_bid,
    )


def infer_orders(messages: Messages, start: StartingBook, by_id: bool = True) -> Inferred:
    """Return the orders that are taken from without ever having been submitted.

    An order's size is the sum of what later messages take from it. One whose id is below that of
    every order submitted so far was there at the start. Others entered outside the levels that
    the messages cover: where ids grow with time, before the first submission with a higher id;
    at the start if not `by_id`. An order inside the starting book is part of the level that shows
    it, up to its size.
    """
    kind = messages.type
    submitted = np.flatnonzero(kind == EventType.SUBMIT)
    takes = (kind >= EventType.CANCEL) & (kind <= EventType.EXECUTE)
    known = np.concatenate([messages.order_id[submitted], start.order_id[start.order_id != 0]])
    taken = np.flatnonzero(takes & ~np.isin(messages.order_id, known))
    ids, first, group = np.unique(messages.order_id[taken], return_index=True, return_inverse=True)
    first = taken[first]
    size = np.bincount(group, weights=messages.size[taken], minlength=len(ids)).astype(np.int64)
    price, side = messages.price[first], messages.direction[first]
    before = np.zeros(len(ids), dtype=np.int64)
    if by_id:
        before = _entry(ids, messages.order_id[submitted], submitted, first)
    inside = np.where(side < 0, price <= start.worst_ask, price >= start.worst_bid)
    shown = inside & (before == 0)
    order = np.argsort(first, kind="stable")
    size[order] = _within_levels(start, price[order], side[order], size[order], shown[order])
    kept = size > 0
    return Inferred(*(x[kept] for x in (ids, price, size, side, before, shown)))


def _entry(
    ids: np.ndarray, submitted_ids: np.ndarray, rows: np.ndarray, first: np.ndarray
) -> np.ndarray:
    """Return the message before which orders entered, int64 `[K]`."""
    growing = np.mean(np.diff(submitted_ids) > 0) if len(submitted_ids) > 1 else 0.0
    if growing < 0.99:
        return np.zeros(len(ids), dtype=np.int64)
    place = np.searchsorted(np.maximum.accumulate(submitted_ids), ids, side="right")
    entered = np.where(place == 0, 0, np.append(rows, np.iinfo(np.int64).max)[place])
    return np.minimum(entered, first)


def _within_levels(
    start: StartingBook, price: np.ndarray, side: np.ndarray, size: np.ndarray, shown: np.ndarray
) -> np.ndarray:
    """Cut the sizes of shown orders, first taken first, to what their levels hold."""
    left: dict[tuple[int, int], int] = {}
    for key_price, key_side, amount in zip(start.price, start.side, start.size, strict=True):
        key = (int(key_price), int(key_side))
        left[key] = left.get(key, 0) + int(amount)
    cut = size.copy()
    for number in np.flatnonzero(shown):
        key = (int(price[number]), int(side[number]))
        cut[number] = min(int(size[number]), left.get(key, 0))
        left[key] = left.get(key, 0) - int(cut[number])
    return cut

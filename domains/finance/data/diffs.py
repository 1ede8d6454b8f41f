"""Tables with one row per change of a price level: `timestamp, side, price, size`."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from dataclasses import dataclass, field

import numpy as np

from domains.finance.data.book import BookSeries
from domains.finance.data.columns import Table, smallest_step
from domains.finance.data.lobster import runs
from domains.finance.data.tables import check_book, check_order, tell_gaps, time_gaps
from domains.finance.data.updates import alive, sides, tell_copies, tell_left_out, updates
from shared_runtime.domain import Problem

NEEDED = ("timestamp", "side", "price", "size")


@dataclass
class _Half:
    """Levels of one side; prices of bids are negated, so that both ascend."""

    prices: list[float] = field(default_factory=list)
    sizes: list[float] = field(default_factory=list)

    def put(self, price: float, size: float) -> int:
        """Set the size at a price, 0 to remove it; return its place."""
        prices = self.prices
        place = bisect_left(prices, price)
        there = place < len(prices) and prices[place] == price
        if size > 0 and there:
            self.sizes[place] = size
        elif size > 0:
            prices.insert(place, price)
            self.sizes.insert(place, size)
        elif there:
            del prices[place], self.sizes[place]
        else:
            return 1 << 62
        return place

    def top(self, levels: int) -> list[float]:
        """Return the best prices, then their sizes."""
        prices, sizes = self.prices[:levels], self.sizes[:levels]
        missing = levels - len(prices)
        return [*prices, *[np.nan] * missing, *sizes, *[0.0] * missing]


def is_diffs(table: Table) -> bool:
    """Say whether a table has the columns of diffs."""
    return all(name in table for name in NEEDED[1:])


def read_diffs(
    table: Table, levels: int = 10, tick: float = 0.0
) -> tuple[list[BookSeries], list[Problem]]:
    """Return the series of a table of changes, and what is wrong with it.

    Columns are `timestamp, side, price, size`: the size is what is at the price afterwards, 0
    removes it. Rows with one timestamp (or one `sequence`, where there is such a column) are one
    update and give at most one book row: none where the first `levels` stay as they were.

    `is_snapshot`, optional, marks updates that hold the whole book; without, the first update
    starts it. `sequence`, optional, is the id of an update, and `first_sequence` the id of the
    first change in it: where one is missing, the book is unknown until the next snapshot, and the
    rows in between are left out with a warning. Without ids, a gap in time ends a series.
    """
    findings = table.findings()
    missing = [name for name in NEEDED if name not in table]
    if missing:
        findings.file("error", f"no column {missing[0]!r}", "name it with data.columns")
    elif not len(table):
        findings.file("error", "no rows below the header", "give a file with data")
    if findings.failed:
        return [], findings.problems()
    time = table.times(findings)
    check_order(time, table.first, findings)
    side = sides(table, findings)
    price, size = table.numbers("price", findings), table.numbers("size", findings)
    numbers = np.arange(len(table)) + table.first
    for name, wrong in (("price not above 0", price <= 0), ("a negative size", size < 0)):
        findings.rows("error", numbers[wrong], name, "correct the row; size 0 removes a price")
    whole, update, lost = updates(table, time, findings)
    if findings.failed:
        return [], findings.problems()
    tell_copies(update, side, price, numbers, findings)
    starts = np.flatnonzero(np.r_[True, np.diff(update) > 0])
    known = alive(starts, whole, lost)
    tell_left_out(starts, known, numbers, findings)
    rows, book, begins = _replay(starts, known, whole, side, price, size, levels)
    check_book(book, numbers[rows], findings)
    quoted = ~np.isnan(book[:, 0]) & ~np.isnan(book[:, 2])
    if not quoted.any():
        findings.file("error", "no row has both a bid and an ask", "give rows of both sides")
    if findings.failed:
        return [], findings.problems()
    edges = set(begins) | set(np.flatnonzero(~quoted)) | {0, len(rows)}
    gaps = time_gaps(time) if "sequence" not in table else np.zeros(0, dtype=np.int64)
    tell_gaps(gaps, time, numbers[gaps], findings)
    findings.rows(
        "warning",
        numbers[rows[~quoted]],
        "a side of the book is empty",
        "nothing to do: the row is left out",
    )
    cuts = sorted(edges | set(np.searchsorted(rows, gaps).tolist()))
    series = BookSeries(
        instrument=table.path.stem,
        day="",
        time=time[rows],
        book=book,
        source=str(table.path),
        tick=tick or smallest_step(price),
    )
    parts = []
    for start, stop in itertools.pairwise(cuts):
        for run in runs(quoted[start:stop]):
            part = series.rows(slice(start + run.start, start + run.stop))
            place = int(rows[start + run.start]) + table.first
            parts.append(BookSeries(**{**part.__dict__, "first_row": place}))
    return parts, findings.problems()


def _replay(
    starts: np.ndarray,
    known: np.ndarray,
    whole: np.ndarray,
    side: np.ndarray,
    price: np.ndarray,
    size: np.ndarray,
    levels: int,
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Return the last file row of each book row `[K]`, the books, and where the book was unknown.

    The books are float64 `[K, 4 L]`; the third are positions in `[K]`.
    """
    halves = {1: _Half(), -1: _Half()}
    stops = np.r_[starts[1:], len(side)].tolist()
    keys = np.where(side > 0, -price, price).tolist()
    of, sizes = side.tolist(), size.tolist()
    rows: list[int] = []
    tops: list[list[float]] = []
    begins: list[int] = []
    fresh = True
    for begin, stop, sure, full in zip(
        starts.tolist(), stops, known.tolist(), whole[starts].tolist(), strict=True
    ):
        if not sure:
            fresh = True
            continue
        if full or fresh:
            halves = {1: _Half(), -1: _Half()}
        touched = levels
        for row in range(begin, stop):
            touched = min(touched, halves[of[row]].put(keys[row], sizes[row]))
        if fresh:
            begins.append(len(rows))
        if touched < levels or full:
            rows.append(stop - 1)
            tops.append(halves[-1].top(levels) + halves[1].top(levels))
        fresh = False
    found = np.array(tops, dtype=np.float64).reshape(-1, 4 * levels)
    book = np.empty_like(found)
    book[:, 0::4], book[:, 1::4], book[:, 2::4], book[:, 3::4] = np.split(found, 4, axis=1)
    book[:, 2::4] *= -1
    return np.array(rows, dtype=np.int64), book, begins

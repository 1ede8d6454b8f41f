"""Tables with one row per snapshot of several levels, as exchanges and vendors export them."""

from __future__ import annotations

import itertools

import numpy as np

from domains.finance.data.book import BookSeries
from domains.finance.data.columns import Table, smallest_step
from domains.finance.data.findings import Findings
from domains.finance.data.tables import check_book, check_order, tell_gaps, time_gaps
from shared_runtime.domain import Problem

QUANTITIES = ("ask_price", "ask_size", "bid_price", "bid_size")


def table_levels(table: Table) -> int:
    """Return how many levels have all their columns, `ask_price_1`, `ask_size_1` and so on."""
    level = 0
    while all(f"{name}_{level + 1}" in table for name in QUANTITIES):
        level += 1
    return level


def read_snapshots(
    table: Table, levels: int = 10, tick: float = 0.0
) -> tuple[list[BookSeries], list[Problem]]:
    """Return the series of a table, a new one after each gap in time, and what is wrong.

    Columns are `timestamp` and, for each level from 1, `ask_price_1, ask_size_1, bid_price_1,
    bid_size_1`. A level is empty where its price is missing or 0, or its size missing or 0.
    """
    findings = table.findings()
    there = table_levels(table)
    if "timestamp" not in table or there < levels:
        what = f"{there} levels, {levels} are to be used" if there else "no levels"
        what = what if "timestamp" in table else "no time"
        remedy = f"set data.levels to {there} or less" if there else "name them with data.columns"
        findings.file("error", what, remedy if "timestamp" in table else "name it timestamp")
        return [], findings.problems()
    if not len(table):
        findings.file("error", "no rows below the header", "give a file with data")
        return [], findings.problems()
    time = table.times(findings)
    check_order(time, table.first, findings)
    book = np.empty((len(table), 4 * levels))
    for level in range(levels):
        for place, name in enumerate(QUANTITIES):
            column = table.numbers(f"{name}_{level + 1}", findings, optional=True)
            book[:, 4 * level + place] = column
    numbers = np.arange(len(table)) + table.first
    _check_levels(book, numbers, findings)
    check_book(book, numbers, findings)
    same = np.flatnonzero((np.diff(time) == 0) & (book[1:] == book[:-1]).all(axis=1)) + 1
    findings.rows("warning", numbers[same], "a repeated row", "remove the copies")
    if findings.failed:
        return [], findings.problems()
    gaps = time_gaps(time)
    tell_gaps(gaps, time, numbers[gaps], findings)
    whole = BookSeries(
        instrument=table.path.stem,
        day="",
        time=time,
        book=book,
        source=str(table.path),
        tick=tick or smallest_step(book[:, 0::2]),
    )
    edges = [0, *gaps.tolist(), len(table)]
    parts = [whole.rows(slice(a, b)) for a, b in itertools.pairwise(edges)]
    return parts, findings.problems()


def _check_levels(book: np.ndarray, numbers: np.ndarray, findings: Findings) -> None:
    """Add negative numbers and levels out of order; make empty levels NaN and 0, in place.

    A row is told for the first thing that is wrong with it.
    """
    clean = ~np.isin(numbers, findings.wrong_rows())
    negative = (book < 0).any(axis=1)
    remedy = "correct the row; an empty level has size 0"
    findings.rows("error", numbers[negative], "a negative price or size", remedy)
    price, size = book[:, 0::2], book[:, 1::2]
    empty = ~((price > 0) & (size > 0))
    half = empty & (price > 0) & (size != 0) & ~np.isnan(size) | empty & ~(price > 0) & (size > 0)
    odd = half.any(axis=1) & clean & ~negative
    findings.rows(
        "error",
        numbers[odd],
        "a price without a size or a size without a price",
        remedy,
    )
    price[empty], size[empty] = np.nan, 0.0
    ask, bid = price[:, 0::2], price[:, 1::2]
    wrong = np.zeros(len(book), dtype=bool)
    for side, sign in ((ask, 1), (bid, -1)):
        step = sign * np.diff(side, axis=1)
        hole = np.isnan(side[:, :-1]) & ~np.isnan(side[:, 1:])
        wrong |= ((step <= 0) | hole).any(axis=1)
    wrong &= clean & ~(negative | odd)
    remedy = "sort the levels of the row from best to worst"
    findings.rows("error", numbers[wrong], "levels not from best to worst", remedy)


def is_snapshots(table: Table) -> bool:
    """Say whether a table has the columns of snapshots."""
    return table_levels(table) > 0

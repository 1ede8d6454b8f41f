"""LOBSTER message and order book files: pairs of them to series of one book."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from domains.finance.data.blocks import in_threads
from domains.finance.data.book import BookSeries, Events, EventType
from domains.finance.data.findings import Findings
from domains.finance.data.lobster_checks import (
    BookChecks,
    check_halves,
    check_messages,
    find_tick,
)
from domains.finance.data.lobster_csv import (
    EMPTY,
    SCALE,
    Messages,
    count_columns,
    read_book,
    read_messages,
    warn_of_cut_end,
)
from domains.finance.data.lobster_names import Pair, find_pairs
from shared_runtime.domain import Problem
from shared_runtime.errors import DataError


def read_lobster(
    path: Path, levels: int = 10, tick: float = 0.0
) -> tuple[list[BookSeries], list[Problem]]:
    """Read every pair of a folder, or the pair of one file, by ticker, day and row.

    Args:
        path: Folder, message file or order book file.
        levels: Best levels that are used.
        tick: Smallest price step; 0 finds it from the messages.

    Returns:
        Series and problems. A pair with an error gives no series.
    """
    pairs, problems = find_pairs(path)
    pairs.sort(key=lambda pair: (pair.name.ticker, pair.name.day, pair.name.stem))
    series: list[BookSeries] = []
    for pair in pairs:
        found, wrong = read_pair(pair, levels, tick)
        series += found
        problems += wrong
    return series, problems


def read_pair(
    pair: Pair, levels: int = 10, tick: float = 0.0
) -> tuple[list[BookSeries], list[Problem]]:
    """Read one pair and split it at its trading halts.

    Rows of a halt, from the message that says so to the one that says trading resumes, are in no
    series; a warning tells how many they were.
    """
    findings, book_findings = Findings(pair.message), Findings(pair.orderbook)
    try:
        messages = read_messages(pair.message, findings)
        columns = count_columns(pair.orderbook)
        if columns != 4 * pair.name.levels:
            what = f"{columns} columns, its name says {pair.name.levels} levels of four"
            book_findings.file("error", what, "give the order book file as LOBSTER wrote it")
        table = read_book(pair.orderbook, levels, book_findings)
    except OSError as error:
        raise DataError(f"{error.filename}: not readable ({error.strerror}); check it") from error
    if table is not None:
        warn_of_cut_end(pair.orderbook, book_findings, len(table))
    if messages is None or table is None:
        return [], findings.problems() + book_findings.problems()
    if len(messages) != len(table):
        what = f"{len(messages)} rows, {pair.orderbook.name} has {len(table)}"
        findings.file("error", what, "give both halves whole: row i of one is row i of the other")
        return [], findings.problems() + book_findings.problems()
    tick = tick or find_tick(messages)
    check_messages(messages, tick, findings)
    halted, status = halts(messages)
    book, found, checks = _book(table, tick)
    checks.report(found, halted | status, book_findings)
    if not findings.failed:
        check_halves(messages, book[:, 0::4], book[:, 2::4], findings)
    _tell_halts(halted & ~status, findings)
    problems = findings.problems() + book_findings.problems()
    if findings.failed or book_findings.failed:
        return [], problems
    whole = BookSeries(
        instrument=pair.name.ticker,
        day=pair.name.day,
        time=messages.time,
        book=book,
        source=str(pair.message),
        tick=tick,
        events=events(messages),
    )
    return [whole.rows(part) for part in runs(~(halted | status))], problems


def events(messages: Messages) -> Events:
    """Return messages with prices in the quote currency."""
    return Events(
        messages.type.astype(np.int8),
        messages.order_id,
        messages.size.astype(np.float64),
        messages.price / SCALE,
        messages.direction.astype(np.int8),
    )


def halts(messages: Messages) -> tuple[np.ndarray, np.ndarray]:
    """Return bool `[N]` twice: rows while trading is halted, and rows that say what trading does.

    A halt lasts from price -1 (halted) or 0 (quoting only) to price 1 (resumed).
    """
    status = messages.type == EventType.HALT
    rows = np.flatnonzero(status)
    stopped = np.r_[False, messages.price[rows] < 1]
    return stopped[np.cumsum(status)], status


def runs(kept: np.ndarray) -> list[slice]:
    """Return the stretches of True in bool `[N]`."""
    edges = np.flatnonzero(np.diff(np.r_[False, kept, False].astype(np.int8)))
    return [
        slice(int(start), int(stop)) for start, stop in zip(edges[::2], edges[1::2], strict=True)
    ]


def _tell_halts(left_out: np.ndarray, findings: Findings) -> None:
    for part in runs(left_out):
        what = f"{part.stop - part.start} messages while trading is halted, up to row {part.stop}"
        remedy = "nothing to do: they are left out"
        findings.rows("warning", np.array([part.start + 1]), what, remedy)


def _book(
    table: pa.Table, tick: float
) -> tuple[np.ndarray, list[dict[str, np.ndarray]], BookChecks]:
    """Return prices and sizes, float64 `[N, 4 L]`, and what is wrong with them, part by part.

    Each column is contiguous, since features, labels and checks read columns.
    """
    book = np.empty((len(table), table.num_columns), order="F")
    checks = BookChecks(tick)
    batches = table.to_batches()
    starts = np.cumsum([0, *(len(batch) for batch in batches)]).tolist()

    def convert(number: int) -> dict[str, np.ndarray]:
        columns = [column.to_numpy() for column in batches[number].columns]
        out = book[starts[number] : starts[number + 1]]
        for place, column in enumerate(columns):
            if place % 2:
                out[:, place] = column
                continue
            np.divide(column, SCALE, out=out[:, place])
            empty = column == (-EMPTY if place % 4 else EMPTY)
            if empty.any():
                out[empty, place] = np.nan
        return checks.part(columns, starts[number] + 1)

    return book, in_threads(convert, list(range(len(batches)))), checks

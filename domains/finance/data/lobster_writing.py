"""Series of a book to LOBSTER's message and order book files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv

from domains.finance.data.book import BookSeries, EventType
from domains.finance.data.lobster_csv import EMPTY, SCALE, Messages
from shared_runtime.errors import DataError

SECOND = 10**9
_OPTIONS = csv.WriteOptions(include_header=False, quoting_style="none")


def write_lobster(
    series: BookSeries | Sequence[BookSeries],
    folder: Path,
    *,
    start: int | None = None,
    end: int | None = None,
) -> tuple[Path, Path]:
    """Write series of one ticker and day as a pair of LOBSTER's files.

    Between two series a halt is written: they are separate because trading was halted.

    Args:
        series: One, or several in the order of time, with events and prices that are whole
            multiples of 0.0001.
        folder: Where the files go; made if missing.
        start: Start in the names, milliseconds after midnight; the first row's, rounded down.
        end: End in the names; the last row's, rounded up.

    Returns:
        The message file and the order book file.

    Raises:
        DataError: the series have no events, are of several days or books, or hold numbers that
            the format cannot.
    """
    parts = [series] if isinstance(series, BookSeries) else list(series)
    if not parts or not all(len(part) for part in parts):
        raise DataError("write_lobster: a series without rows; give one with rows")
    first = parts[0]
    for part in parts:
        same = (part.instrument, part.day, part.levels) == (
            first.instrument,
            first.day,
            first.levels,
        )
        if not same or part.normalised:
            raise DataError(f"{part.source}: of another book, or not in its units; write it alone")
    messages: list[Messages] = []
    books: list[np.ndarray] = []
    for part in parts:
        if messages:
            halt = _halt(messages[-1].time[-1:], part.time[:1])
            messages.append(halt)
            books.append(np.repeat(books[-1][-1:], 2, axis=0))
        messages.append(_messages(part))
        books.append(_integers(part))
    whole = Messages(
        *(np.concatenate(columns) for columns in zip(*map(_columns, messages), strict=True))
    )
    stem = first.instrument
    if first.day:
        low = int(whole.time[0] // 1_000_000) if start is None else start
        high = -int(-whole.time[-1] // 1_000_000) if end is None else end
        stem = f"{stem}_{first.day}_{low}_{high}"
    return write_pair(whole, np.concatenate(books), folder, stem)


def write_pair(messages: Messages, book: np.ndarray, folder: Path, stem: str) -> tuple[Path, Path]:
    """Write messages and book rows, int64 `[N, 4 L]`, both in LOBSTER's units.

    Args:
        messages: N of them.
        book: Row i is the state after message i; empty levels have price ±9999999999, size 0.
        folder: Where the files go; made if missing.
        stem: Names up to the half: `TICKER_YYYY-MM-DD_START_END`.

    Returns:
        The message file and the order book file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    levels = book.shape[1] // 4
    paths = tuple(folder / f"{stem}_{half}_{levels}.csv" for half in ("message", "orderbook"))
    columns = [pa.array(times_as_text(messages.time)), *map(pa.array, _columns(messages)[1:])]
    _write(columns, paths[0])
    _write([pa.array(np.ascontiguousarray(column)) for column in book.T], paths[1])
    return paths[0], paths[1]


def times_as_text(time: np.ndarray) -> list[str]:
    """Write nanoseconds `[N]` as seconds, without zeros at the end of the decimals."""
    seconds, rest = np.divmod(time, SECOND)
    return [
        f"{whole}.{part:09d}".rstrip("0").rstrip(".")
        for whole, part in zip(seconds.tolist(), rest.tolist(), strict=True)
    ]


def _columns(messages: Messages) -> list[np.ndarray]:
    return [
        messages.time,
        messages.type,
        messages.order_id,
        messages.size,
        messages.price,
        messages.direction,
    ]


def _messages(series: BookSeries) -> Messages:
    events = series.events
    if events is None:
        raise DataError(f"{series.source}: no events; LOBSTER's files need a message for each row")
    where = f"{series.source}: events"
    return Messages(
        series.time,
        events.type.astype(np.int64),
        events.order_id.astype(np.int64),
        _whole(events.size, 1, f"{where}: size"),
        _whole(events.price, SCALE, f"{where}: price"),
        events.direction.astype(np.int64),
    )


def _integers(series: BookSeries) -> np.ndarray:
    empty = np.isnan(series.book[:, 0::2])
    book = np.empty(series.book.shape, dtype=np.int64)
    book[:, 1::2] = _whole(series.book[:, 1::2], 1, f"{series.source}: size")
    price = _whole(np.nan_to_num(series.book[:, 0::2]), SCALE, f"{series.source}: price")
    price[:, 0::2][empty[:, 0::2]] = EMPTY
    price[:, 1::2][empty[:, 1::2]] = -EMPTY
    book[:, 0::2] = price
    return book


def _whole(values: np.ndarray, scale: int, where: str) -> np.ndarray:
    scaled = np.asarray(values, dtype=np.float64) * scale
    wrong = ~(np.abs(scaled) < EMPTY)
    rounded = np.rint(np.where(wrong, 0.0, scaled))
    wrong |= np.abs(np.where(wrong, 0.0, scaled) - rounded) > 1e-6 * np.maximum(1.0, rounded)
    if wrong.any():
        bad = values[wrong][0]
        raise DataError(
            f"{where} {bad:g} is no whole multiple of {1 / scale:g} below "
            f"{EMPTY / scale:g}; LOBSTER's files cannot hold it"
        )
    return rounded.astype(np.int64)


def _halt(before: np.ndarray, after: np.ndarray) -> Messages:
    zero = np.zeros(2, dtype=np.int64)
    return Messages(
        np.concatenate([before, after]),
        zero + int(EventType.HALT),
        zero,
        zero,
        np.array([-1, 1]),
        zero - 1,
    )


def _write(columns: Sequence[pa.Array], path: Path) -> None:
    names = [str(number) for number in range(len(columns))]
    csv.write_csv(pa.table(list(columns), names=names), path, _OPTIONS)

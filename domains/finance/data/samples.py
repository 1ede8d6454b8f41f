"""Small simulated data sets in every format that is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv

from domains.finance.data.book import BookSeries, EventType
from domains.finance.data.labels import classes, movement
from domains.finance.data.sampling import sample
from domains.finance.data.simulator import Market, simulate_day

LOBSTER, SNAPSHOTS, DIFFS, FI2010 = "lobster", "snapshots.csv", "diffs.csv", "fi2010"
DAYS = ("2024-03-04", "2024-03-05")
MARKETS = (Market(instrument="SIMA", price=100.0), Market(instrument="SIMB", price=40.0))
FI2010_HORIZONS = (10, 20, 30, 50, 100)
_EVENTS = 6000
_SCALE = 10_000
_EMPTY = 9_999_999_999
_MILLISECOND = 1_000_000


def write_samples(out: Path, seed: int) -> list[Path]:
    """Write simulated order books; return the files.

    - `lobster/`: two tickers on two days, pairs of message and order book files of ten levels;
      the first ticker is halted on the second day.
    - `snapshots.csv`: a crypto book of ten levels every five seconds, columns `timestamp`
      (milliseconds since 1970), then `ask_price_1, ask_size_1, bid_price_1, bid_size_1, ...`.
    - `diffs.csv`: that book by the millisecond, columns `timestamp, side, price, size`: the size
      that is now at a price, 0 where the level is gone; it begins with the whole book.
    - `fi2010/`: a training and a test file of two stocks in the layout of FI-2010.
    """
    files = _write_lobster_days(out / LOBSTER, seed)
    coin = Market(instrument="SIMUSDT", price=60_000.0, tick=0.5)
    (book,) = simulate_day(coin, 16_000, seed + 100, day=DAYS[0])
    coins = _in_coins(book)
    _write_snapshots(sample(coins, "time", 5.0), out / SNAPSHOTS)
    _write_diffs(coins.rows(slice(0, 6000)), out / DIFFS)
    return [*files, out / SNAPSHOTS, out / DIFFS, *_write_fi2010(out / FI2010, seed)]


def _write_lobster_days(folder: Path, seed: int) -> list[Path]:
    files: list[Path] = []
    for number, market in enumerate(MARKETS):
        price = market.price
        for later, day in enumerate(DAYS):
            halts = [(0.4, 300.0)] if (number, later) == (0, 1) else []
            stretches = simulate_day(
                market,
                _EVENTS,
                seed + 10 * number + later,
                day=day,
                halts=halts,
                open_price=price,
            )
            price = float(stretches[-1].mid[-1])
            files += _write_lobster(stretches, folder)
    return files


def _write_lobster(stretches: Sequence[BookSeries], folder: Path) -> tuple[Path, Path]:
    """Write one day as a pair of LOBSTER's files, with a halt between stretches."""
    folder.mkdir(parents=True, exist_ok=True)
    first = stretches[0]
    columns: list[list[np.ndarray]] = []
    books: list[np.ndarray] = []
    for one in stretches:
        if columns:
            halted = [columns[-1][0][-1], one.time[0]]
            halt = [halted, [EventType.HALT] * 2, [0, 0], [0, 0], [-1, 1], [-1, -1]]
            columns.append([np.array(values) for values in halt])
            books.append(np.repeat(books[-1][-1:], 2, axis=0))
        events = one.events
        assert events is not None
        price = np.rint(events.price * _SCALE)
        columns.append(
            [one.time, events.type, events.order_id, events.size, price, events.direction]
        )
        books.append(_lobster_book(one))
    time, *rest = (np.concatenate(column) for column in zip(*columns, strict=True))
    seconds, nanoseconds = np.divmod(time, 10**9)
    text = [f"{s}.{n:09d}" for s, n in zip(seconds.tolist(), nanoseconds.tolist(), strict=True)]
    stem = f"{first.instrument}_{first.day}_34200000_57600000"
    message, book = (
        folder / f"{stem}_{half}_{first.levels}.csv" for half in ("message", "orderbook")
    )
    _write_table([text, *(column.astype(np.int64) for column in rest)], message)
    _write_table(list(np.concatenate(books).T), book)
    return message, book


def _lobster_book(one: BookSeries) -> np.ndarray:
    far = np.tile([_EMPTY, 0, -_EMPTY, 0], one.levels)
    scale = np.tile([_SCALE, 1, _SCALE, 1], one.levels)
    return np.where(np.isnan(one.book), far, np.rint(one.book * scale)).astype(np.int64)


def _write_table(columns: Sequence[object], path: Path, header: Sequence[str] = ()) -> None:
    arrays = [
        pa.array(np.ascontiguousarray(c) if isinstance(c, np.ndarray) else c) for c in columns
    ]
    names = list(header) or [str(number) for number in range(len(arrays))]
    options = csv.WriteOptions(include_header=bool(header), quoting_style="none")
    csv.write_csv(pa.table(arrays, names=names), path, options)


def _in_coins(one: BookSeries) -> BookSeries:
    """Return the book with sizes of thousandths and times since 1970."""
    book = one.book.copy()
    book[:, 1::2] = np.round(book[:, 1::2] / 1000, 3)
    midnight = np.datetime64(one.day, "ns").astype(np.int64)
    return BookSeries(one.instrument, "", one.time + midnight, book, one.source, tick=one.tick)


def _write_snapshots(one: BookSeries, path: Path) -> None:
    sides = ("ask_price", "ask_size", "bid_price", "bid_size")
    header = [f"{name}_{level}" for level in range(1, one.levels + 1) for name in sides]
    columns = [pa.array(column, mask=np.isnan(column)) for column in one.book.T]
    _write_table([one.time // _MILLISECOND, *columns], path, ["timestamp", *header])


def _write_diffs(one: BookSeries, path: Path) -> None:
    times = one.time // _MILLISECOND
    last = np.flatnonzero(np.diff(times, append=-1))
    before: dict[tuple[str, float], float] = {}
    rows: list[tuple[int, str, float, float]] = []
    for time, book in zip(times[last].tolist(), one.book[last].tolist(), strict=True):
        now = {}
        for place in range(0, len(book), 4):
            ask, ask_size, bid, bid_size = book[place : place + 4]
            if ask_size:
                now["ask", ask] = ask_size
            if bid_size:
                now["bid", bid] = bid_size
        rows += [(time, *key, 0.0) for key in before.keys() - now.keys()]
        rows += [(time, *key, size) for key, size in now.items() if before.get(key) != size]
        before = now
    _write_table(list(zip(*rows, strict=True)), path, ["timestamp", "side", "price", "size"])


def _write_fi2010(folder: Path, seed: int) -> list[Path]:
    """Write fold 7 of two stocks, every tenth event a column, prices and sizes by powers of ten."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, (name, columns) in enumerate((("Train", 900), ("Test", 400))):
        blocks = []
        for stock, price in enumerate((26.0, 13.0)):
            market = Market(instrument=f"STOCK{stock + 1}", price=price)
            (one,) = simulate_day(market, 10 * columns + 100, seed + 200 + 10 * number + stock)
            blocks.append(_fi2010_columns(one, columns))
        path = folder / f"{name}_Dst_NoAuction_DecPre_CF_7.txt"
        np.savetxt(path, np.concatenate(blocks, axis=1), fmt="%.6g")
        paths.append(path)
    return paths


def _fi2010_columns(one: BookSeries, columns: int) -> np.ndarray:
    """Return 40 rows of the book, 104 made from it and 5 labels, `[149, columns]`.

    An empty level is a tick behind the one before, with size 0.
    """
    chosen = 10 * np.arange(columns)
    labels = []
    for horizon in FI2010_HORIZONS:
        change = movement(one.mid, "fi2010", horizon, 0)
        threshold = float(np.nanmean(np.abs(change)) / 2)
        labels.append(classes(change, threshold)[chosen] + 1)
    scale = np.tile([1e-2, 1e-5], 2 * one.levels)
    book = one.book[chosen] * scale
    for place in range(4, book.shape[1], 2):
        step = 1e-4 if place % 4 == 0 else -1e-4
        beyond = book[:, place - 4] + step
        book[:, place] = np.where(np.isnan(book[:, place]), beyond, book[:, place])
    ask, ask_size, bid, bid_size = (book[:, i::4] for i in range(4))
    slope = np.diff(book, axis=0, prepend=book[:1])
    rates = _rates(one, chosen)
    made = [
        ask - bid,
        (ask + bid) / 2,
        ask[:, -1:] - ask[:, :1],
        bid[:, :1] - bid[:, -1:],
        np.abs(np.diff(ask, axis=1)),
        np.abs(np.diff(bid, axis=1)),
        *(side.mean(axis=1, keepdims=True) for side in (ask, bid, ask_size, bid_size)),
        (ask - bid).sum(axis=1, keepdims=True),
        (ask_size - bid_size).sum(axis=1, keepdims=True),
        slope,
        rates,
        (rates > rates.mean(axis=0)).astype(float),
        np.diff(rates, axis=0, prepend=rates[:1]),
    ]
    return np.concatenate([book, *made, np.column_stack(labels)], axis=1).T


def _rates(one: BookSeries, chosen: np.ndarray) -> np.ndarray:
    """Return the share of submissions, trades and cancellations of each side in fifty events."""
    events = one.events
    assert events is not None
    groups = ((EventType.SUBMIT,), (EventType.EXECUTE,), (EventType.CANCEL, EventType.DELETE))
    found = []
    for side in (-1, 1):
        for group in groups:
            total = np.cumsum(np.isin(events.type, group) & (events.direction == side))
            found.append((total[chosen] - total[np.maximum(chosen - 50, 0)]) / 50)
    return np.column_stack(found)

"""Rows per second of reading LOBSTER pairs, beside `pandas.read_csv` of the same two files.

    python scripts/benchmarks/book_reading.py --rows 1000000 --levels 10

A day of random, ordered books is written to a temporary folder first. Both sides read both
halves; ours also turns times into exact nanoseconds and prices into the quote currency, checks
every cell and splits at halts. Times are the least of interleaved rounds, by the clock, with
the threads that pyarrow takes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from domains.finance.data.lobster import read_lobster
from domains.finance.data.lobster_csv import Messages
from domains.finance.data.lobster_writing import write_pair


def write_day(folder: Path, rows: int, levels: int) -> tuple[Path, Path]:
    rng = np.random.default_rng(0)
    bid = 5_850_000 + 100 * np.cumsum(rng.integers(-1, 2, rows))
    gaps = np.cumsum(rng.integers(1, 9, (2, rows, levels)), axis=2) * 100
    book = np.empty((rows, 4 * levels), dtype=np.int64)
    book[:, 0::4], book[:, 2::4] = bid[:, None] + gaps[0], bid[:, None] - gaps[1] + 100
    book[:, 1::2] = rng.integers(1, 2000, (rows, 2 * levels))
    side = rng.choice([-1, 1], rows)
    price = np.where(side > 0, book[:, 2], book[:, 0])
    messages = Messages(
        time=34_200 * 10**9 + np.cumsum(rng.integers(0, 2 * 23_400 * 10**9 // rows, rows)),
        type=np.ones(rows, dtype=np.int64),
        order_id=np.arange(16_113_575, 16_113_575 + rows),
        size=rng.integers(1, 500, rows),
        price=price,
        direction=side,
    )
    messages = messages.rows(messages.time < 57_600 * 10**9)
    return write_pair(messages, book[: len(messages)], folder, "AAPL_2012-06-21_34200000_57600000")


def read_with_pandas(paths: tuple[Path, Path]) -> int:
    message, book = (pd.read_csv(path, header=None) for path in paths)
    return len(message) + len(book)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--levels", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        paths = write_day(Path(name), arguments.rows, arguments.levels)
        size = sum(path.stat().st_size for path in paths) / 1e6
        ways = {
            "heed": lambda: read_lobster(Path(name), arguments.levels),
            "pandas": lambda: read_with_pandas(paths),
        }
        best = dict.fromkeys(ways, float("inf"))
        for _ in range(arguments.repeats):
            for way, read in ways.items():
                start = time.perf_counter()
                read()
                best[way] = min(best[way], time.perf_counter() - start)
        (series,), problems = read_lobster(Path(name), arguments.levels)
        if problems:
            raise SystemExit("\n".join(map(str, problems)))
    rows = len(series)
    print(f"{rows:,} rows of {arguments.levels} levels, {size:.0f} MB, {pa.cpu_count()} threads")
    for way, seconds in best.items():
        print(f"{way}: {seconds:.2f} s, {rows / seconds:,.0f} rows/s")
    print(f"ratio {best['pandas'] / best['heed']:.1f}")


if __name__ == "__main__":
    main()

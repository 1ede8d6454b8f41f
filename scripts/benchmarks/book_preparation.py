"""A LOBSTER day made ready for training, beside the same steps written with pandas.

    python scripts/benchmarks/book_preparation.py --rows 400000

Both sides read the two files, add the order features, label every row for four horizons with the
threshold of the training rows, and standardise the features with statistics of the training rows.
Ours checks every cell as well and gathers windows. The pandas side has no loop over rows. Times
are the least of interleaved rounds, by the clock; a line says how long each of our steps takes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from book_reading import write_day

from domains.finance.data.config import DataConfig
from domains.finance.data.labels import classes, movement
from domains.finance.data.reading import read_books
from domains.finance.data.splits import split, take
from domains.finance.data.thresholds import fit_alpha
from domains.finance.data.windows import Windows, make_windows

HORIZONS = (10, 20, 50, 100)
SMOOTHING = 10
TRAIN = 0.7


def prepare(folder: Path) -> tuple[dict[str, float], dict[str, Windows]]:
    """Return the seconds of each step, and windows of the first horizon."""
    config = DataConfig(path=folder, features="paper", lookback=128, horizon=HORIZONS[0])
    marks = [time.perf_counter()]
    series, problems = read_books(config)
    if any(problem.severity == "error" for problem in problems):
        raise SystemExit("\n".join(map(str, problems)))
    marks.append(time.perf_counter())
    parts = split(series, config)
    windows = make_windows(series, parts, config)
    marks.append(time.perf_counter())
    pieces = [one for part in parts.items().values() for one in take(series, part)]
    for horizon in HORIZONS[1:]:
        changes = [movement(one.mid, "tlob", horizon, SMOOTHING) for one in pieces]
        alpha = fit_alpha(changes[0], pieces[0].spread, pieces[0].mid, "mean")
        for change in changes:
            classes(change, alpha)
    marks.append(time.perf_counter())
    for part in windows.values():
        part.batch(np.arange(1))
    marks.append(time.perf_counter())
    return dict(zip(("read", "windows", "labels", "scale"), np.diff(marks), strict=True)), windows


def prepare_with_pandas(paths: tuple[Path, Path]) -> pd.DataFrame:
    """Return the standardised features and labels of every row."""
    names = ["interval", "type", "order_id", "size", "price", "direction"]
    message = pd.read_csv(paths[0], names=names).drop(columns="order_id")
    book = pd.read_csv(paths[1], header=None).astype("float64")
    book.iloc[:, 0::2] /= 10_000
    message["price"] /= 10_000
    buys = message["direction"] > 0
    best = book[2].shift().where(buys, book[0].shift())
    message["depth"] = ((best - message["price"]) * message["direction"] * 100).round().fillna(0)
    message["direction"] *= 1 - 2 * (message["type"] == 4)
    message["interval"] = message["interval"].diff().fillna(0)
    message["type"] = message["type"].map({1: 0, 2: 1, 3: 1, 4: 2, 5: 2}).fillna(3)
    train = int(TRAIN * len(book))
    mid = (book[0] + book[2]) / 2
    past = mid.rolling(SMOOTHING + 1).mean()
    labels = {}
    for horizon in HORIZONS:
        change = (past.shift(-horizon) - past) / past
        alpha = change[:train].abs().mean() / 2
        label = np.select([change > alpha, change < -alpha], [0, 2], 1)
        labels[f"label_{horizon}"] = pd.Series(label).where(change.notna(), -1)
    table = pd.concat([book, message], axis=1)
    prices, sizes = [*range(0, 40, 2), "price"], [*range(1, 40, 2), "size"]
    for columns in (prices, sizes, ["interval"], ["type"], ["direction"], ["depth"]):
        seen = table.loc[: train - 1, columns].stack()
        table[columns] = (table[columns] - seen.mean()) / seen.std()
    return pd.concat([table, pd.DataFrame(labels)], axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--threads", type=int, default=pa.cpu_count())
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    pa.set_cpu_count(arguments.threads)
    steps: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        paths = write_day(Path(name), arguments.rows, 10)

        def ours() -> None:
            found, _ = prepare(Path(name))
            steps.update({step: min(spent, steps.get(step, 1e9)) for step, spent in found.items()})

        ways: dict[str, Callable[[], object]] = {
            "heed": ours,
            "pandas": lambda: prepare_with_pandas(paths),
        }
        best = dict.fromkeys(ways, float("inf"))
        for _ in range(arguments.repeats):
            for way, run in ways.items():
                start = time.perf_counter()
                run()
                best[way] = min(best[way], time.perf_counter() - start)
    print(f"{arguments.rows:,} rows of 10 levels, {arguments.threads} threads")
    for way, seconds in best.items():
        print(f"{way}: {seconds:.3f} s, {arguments.rows / seconds:,.0f} rows/s")
    print("heed by step: " + ", ".join(f"{step} {spent:.3f} s" for step, spent in steps.items()))
    print(f"ratio {best['pandas'] / best['heed']:.1f}")


if __name__ == "__main__":
    main()

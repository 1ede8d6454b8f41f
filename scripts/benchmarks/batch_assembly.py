"""Batches of forecast windows: one gather per batch beside a per-item `DataLoader`.

    python scripts/benchmarks/batch_assembly.py --batch-size 32

Both sides give the same windows (compared first) of the same float32 arrays, shuffled, one epoch
per round. The peer is the usual data set of this field: slices of one window in `__getitem__`,
stacked by `torch.utils.data.DataLoader`. Times are the least of interleaved rounds, in processor
seconds.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable

import numpy as np
import pandas as pd
import torch
from timing import interleaved
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from domains.forecasting.data.panel import Panel
from domains.forecasting.data.scaling import unit_scaler
from domains.forecasting.data.windows import WindowSet, build_store, training_windows
from shared_runtime.loader import BatchLoader

KEYS = ("past", "past_time", "future_time", "future")


class PerItem(Dataset[tuple[Tensor, ...]]):
    """One window at a time, as public code of this field does it."""

    def __init__(self, windows: WindowSet) -> None:
        self.values, self.time = windows.store.values, windows.store.time
        self.lookback, self.horizon = windows.lookback, windows.horizon
        self.count = len(windows)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        middle = index + self.lookback
        end = middle + self.horizon
        return (
            self.values[index:middle],
            self.time[index:middle],
            self.time[middle:end],
            self.values[middle:end],
        )


def make_windows(rows: int, channels: int, lookback: int, horizon: int) -> WindowSet:
    rng = np.random.default_rng(0)
    panel = Panel(
        layout="wide",
        ids=("",),
        channels=tuple(f"c{n}" for n in range(channels)),
        values=rng.normal(size=(rows, channels)),
        past_covariates=np.empty((rows, 0)),
        future_covariates=np.empty((rows, 0)),
        times=pd.date_range("2020-01-01", periods=rows, freq="h").to_numpy("datetime64[ns]"),
        offsets=np.array([0, rows]),
        frequency="h",
        timezone=None,
        time_column="date",
    )
    store = build_store(panel, unit_scaler(panel), pad=0, carry_forward=False)
    return training_windows(store, panel.lengths, lookback, horizon)


def compare(windows: WindowSet, per_item: PerItem) -> None:
    chosen = np.random.default_rng(1).permutation(len(windows))[:100]
    ours = windows.batch(chosen)
    for place, key in enumerate(KEYS):
        theirs = torch.stack([per_item[int(index)][place] for index in chosen])
        if not torch.equal(ours[key], theirs):
            raise SystemExit(f"{key}: the two sides differ")


def consume(loader: Iterable[object]) -> int:
    return sum(1 for _ in loader)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rows", type=int, default=8640)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} thread(s), one epoch of hourly windows")
    print("| channels | look-back/horizon | windows | one gather ms | DataLoader ms | ratio |")
    print("|---|---|---|---|---|---|")
    for channels, lookback, horizon in ((7, 96, 96), (7, 336, 96), (7, 96, 720), (21, 96, 96)):
        windows = make_windows(arguments.rows, channels, lookback, horizon)
        per_item = PerItem(windows)
        compare(windows, per_item)
        ours = BatchLoader(windows, arguments.batch_size, seed=0, shuffle=True)
        theirs = DataLoader(per_item, arguments.batch_size, shuffle=True)
        times = interleaved(
            {"gather": lambda o=ours: consume(o), "items": lambda t=theirs: consume(t)},
            arguments.repeats,
        )
        gather, items = 1e3 * times["gather"], 1e3 * times["items"]
        print(
            f"| {channels} | {lookback}/{horizon} | {len(windows)} | {gather:.1f} | {items:.1f} "
            f"| {items / gather:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

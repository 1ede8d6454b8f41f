"""Predictability over time: scores of a model and of rules in block after block of events."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pandas as pd

from domains.finance.metrics import accuracy, item_sums, macro_f1, mcc
from domains.finance.resampling import boundaries


def rolling_scores(
    forecasts: Mapping[str, np.ndarray],
    label: np.ndarray,
    time: np.ndarray,
    series: np.ndarray,
    *,
    block: int = 0,
) -> pd.DataFrame:
    """Return the scores of each forecast in consecutive blocks, one row per block and forecast.

    Blocks do not overlap and do not cross series; the last of a series is joined to the one before
    it where it is shorter than half a block. Columns: `block`, `series`, `start` and `stop` (of
    `time`), `items`, `model`, `macro_f1`, `mcc`, `accuracy`.

    Args:
        forecasts: `[n, 3]` probabilities by name, such as the model, `majority` and `drift rule`.
        label: classes `[n]`.
        time: int64 `[n]`.
        series: integers `[n]`.
        block: forecasts of a block; 0 takes a twentieth of them, at least 200.
    """
    block = block or max(200, len(label) // 20)
    number, starts = _blocks(series, block)
    stops = np.append(starts, len(label))[1:] - 1
    parts = []
    for name, probability in forecasts.items():
        totals = np.add.reduceat(item_sums(probability, label), starts, axis=0)
        parts.append(
            pd.DataFrame(
                {
                    "block": np.arange(len(starts)),
                    "series": series[starts],
                    "start": time[starts],
                    "stop": time[stops],
                    "items": np.bincount(number),
                    "model": name,
                    "macro_f1": macro_f1(totals),
                    "mcc": mcc(totals),
                    "accuracy": accuracy(totals),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def _blocks(series: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the block of each item, and the first item of each block."""
    edges = boundaries(series)
    starts = []
    for first, stop in pairwise(edges.tolist()):
        count = max(1, round((stop - first) / block))
        starts.append(first + block * np.arange(count))
    found = np.concatenate(starts)
    lengths = np.diff(np.append(found, len(series)))
    return np.repeat(np.arange(len(found)), lengths), found

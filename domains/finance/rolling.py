"""Predictability over time: scores of a model and of rules in block after block of events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from domains.finance.market import is_clock
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


def time_table(table: pd.DataFrame, names: Sequence[str] | None = None) -> pd.DataFrame:
    """Return `rolling_scores` for a reader: a row per block, the MCC of each forecast beside it.

    Args:
        table: of `rolling_scores`.
        names: of the series numbers; a column of them is added where there are several.
    """
    own = table[table["model"] == table["model"].iloc[0]]
    shown = pd.DataFrame(
        {
            "from": [clock(time) for time in own["start"]],
            "to": [clock(time) for time in own["stop"]],
            "forecasts": own["items"].to_numpy(),
        }
    )
    for name, rows in table.groupby("model", sort=False):
        shown[f"MCC of {name}"] = rows["mcc"].to_numpy()
    if own["series"].nunique() > 1:
        labels = [str(n) if names is None else names[n] for n in own["series"]]
        shown.insert(0, "series", labels)
    return shown


def clock(nanoseconds: int) -> str:
    """Return the time of day as `10:14:20`, or the number of the row without a clock."""
    if not is_clock(nanoseconds):
        return f"row {nanoseconds}"
    seconds = int(nanoseconds // 10**9) % 86_400
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


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

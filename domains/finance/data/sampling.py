"""Which rows are kept: by event, time, traded volume or moves of the mid.

Every kept row is the last state at or before its sampling point, so nothing is read ahead. The
order flow of the events left out is added to the next kept row.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from domains.finance.data.book import BookSeries, EventType
from domains.finance.data.order_flow import flows
from shared_runtime.errors import DataError

_MOST_ROWS = 50_000_000


def sample(series: BookSeries, kind: str, every: float) -> BookSeries:
    """Return the series at its sampling points.

    - `event`: every n-th row.
    - `time`: at multiples of n seconds since midnight (or 1970), from the first that the series
      reaches; `time` of the result is that of the grid, and a state that did not change repeats.
    - `volume`: whenever the volume executed since the start of the series passes a multiple of n
      units, at the row that passes it.
    - `mid`: the first row, then whenever the mid lies n ticks or more from that of the last kept
      row.

    Args:
        series: one series, every event a row.
        kind: one of the above.
        every: n; whole for `event`.

    Returns:
        A series whose `flows` sum the events between its rows; the same series where every row is
        kept. It is empty where the series has no sampling point.

    Raises:
        DataError: `volume` of data without messages, or more points than fit in memory.
    """
    if kind == "event" and every == 1:
        return series
    time = series.time
    if kind == "time":
        time, rows = _grid(series, every)
    elif kind == "event":
        step = max(1, round(every))
        rows = np.arange(step - 1, len(series), step)
    elif kind == "volume":
        rows = _volume_rows(series, every)
    elif kind == "mid":
        rows = _mid_rows(series, every)
    else:
        raise ValueError(f"sample: expected event, time, volume or mid, got {kind!r}")
    kept = series.rows(rows)
    return replace(
        kept,
        time=time if kind == "time" else kept.time,
        flows=_between(flows(series), rows),
    )


def _between(flow: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the flow after the row kept before, up to each kept row, `[len(rows), K]`."""
    total = np.concatenate([np.zeros((1, flow.shape[1])), np.cumsum(flow, axis=0)])
    return np.diff(total[rows + 1], axis=0, prepend=total[:1]) if len(rows) else flow[:0]


def _grid(series: BookSeries, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the points of the grid and the last row at or before each."""
    step = max(1, round(seconds * 1e9))
    if not len(series):
        return series.time, np.zeros(0, np.int64)
    first, last = -(-int(series.time[0]) // step), int(series.time[-1]) // step
    if last - first >= _MOST_ROWS:
        raise DataError(
            f"{series.source}: {last - first + 1} points of {seconds} s between its first and "
            "last row; use a larger data.every"
        )
    points = np.arange(first, last + 1) * step
    return points, np.searchsorted(series.time, points, side="right") - 1


def _volume_rows(series: BookSeries, units: float) -> np.ndarray:
    events = series.events
    if events is None:
        raise DataError(
            f"{series.source}: data.sample=volume needs order messages, which "
            "snapshots have not; use data.sample=event, time or mid"
        )
    executed = (events.type == EventType.EXECUTE) | (events.type == EventType.EXECUTE_HIDDEN)
    passed = np.floor(np.cumsum(np.where(executed, events.size, 0.0)) / units + 1e-9)
    return np.flatnonzero(np.diff(passed, prepend=0.0) > 0)


def _mid_rows(series: BookSeries, ticks: float) -> np.ndarray:
    mid = series.mid
    known = np.flatnonzero(np.isfinite(mid))
    steps = np.rint(mid[known] / series.tick * 2)
    changed = np.flatnonzero(np.diff(steps, prepend=np.nan) != 0)
    kept, last, least = [], None, 2 * ticks - 1e-9
    for row, step in zip(known[changed].tolist(), steps[changed].tolist(), strict=True):
        if last is None or abs(step - last) >= least:
            kept.append(row)
            last = step
    return np.array(kept, np.int64)

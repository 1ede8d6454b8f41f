"""Rows in the order of a file, put on the complete time grid of their series.

Every step repairs what it finds by the option for it and goes on, and reports it as an error
where the option is `error`, so that one pass finds everything.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from domains.forecasting.data.config import DataConfig
from domains.forecasting.data.frequency import (
    canonical_frequency,
    grid_positions,
    infer_frequency,
    is_sub_daily,
    later,
)
from domains.forecasting.data.table import place
from shared_runtime.domain import Problem

_MOST_INSERTED = 20


@dataclass(frozen=True)
class Rows:
    """Parsed rows: series number, time (UTC where there is a zone), data, row in the file."""

    codes: np.ndarray
    """int64 `[T]`."""
    times: pd.DatetimeIndex
    data: np.ndarray
    """float64 `[T, V]`, NaN where missing."""
    lines: np.ndarray
    """int64 `[T]`; -1 for rows that are not in the file."""
    names: tuple[str, ...]
    """Names of the series."""
    timezone: str | None

    def take(self, chosen: np.ndarray) -> Rows:
        """Return the rows `chosen`."""
        return replace(
            self,
            codes=self.codes[chosen],
            times=self.times[chosen],
            data=self.data[chosen],
            lines=self.lines[chosen],
        )

    @property
    def breaks(self) -> np.ndarray:
        """Bool `[T]`: the first row of each series."""
        return np.r_[True, np.diff(self.codes) != 0]

    @property
    def local(self) -> pd.DatetimeIndex:
        """Times of the clock on the wall, without a zone."""
        if self.timezone is None:
            return self.times
        return self.times.tz_localize("UTC").tz_convert(self.timezone).tz_localize(None)

    def shown(self, row: int) -> str:
        """Name a time as the file has it, with its series."""
        series = self.names[self.codes[row]]
        return f"{self.local[row]}" + (f" of series {series!r}" if series else "")


def on_grid(rows: Rows, config: DataConfig, problems: list[Problem]) -> tuple[Rows, str] | None:
    """Return sorted rows without repeats or gaps, and their frequency.

    None where there is no grid to put them on; `problems` gets what was found.
    """
    rows = _without_repeats(_sorted(rows, config, problems), config, problems)
    try:
        frequency = canonical_frequency(config.frequency) if config.frequency else _inferred(rows)
    except ValueError:
        what = f"pandas does not know data.frequency={config.frequency}"
        problems.append(Problem("error", str(config.path), what, "use one such as h, 15min or MS"))
        return None
    if frequency is None:
        what = "no regular time step is found"
        remedy = "set data.frequency, such as h, D or MS, or resample the data"
        problems.append(Problem("error", str(config.path), what, remedy))
        return None
    clock = rows.times if is_sub_daily(frequency) else rows.local
    places, off = grid_positions(clock, frequency, rows.breaks)
    if off.any():
        row = int(np.flatnonzero(off)[0])
        what = f"{rows.shown(row)} is not on the {frequency} grid ({int(off.sum())} such rows)"
        remedy = "set data.frequency, correct the times or resample the data"
        problems.append(Problem("error", place(config.path, rows.lines[row]), what, remedy))
        return None
    filled = _without_gaps(rows, places, frequency, config, problems)
    return None if filled is None else (filled, frequency)


def _inferred(rows: Rows) -> str | None:
    """Hours are regular in UTC, where none is missing or repeated; days on the local clock."""
    found = infer_frequency(rows.times, rows.breaks)
    if rows.timezone is None or (found is not None and is_sub_daily(found)):
        return found
    return infer_frequency(rows.local, rows.breaks)


def _sorted(rows: Rows, config: DataConfig, problems: list[Problem]) -> Rows:
    """Bring each series together and in order; going back in time within one is an error."""
    rows = rows.take(np.argsort(rows.codes, kind="stable"))
    back = np.flatnonzero((np.diff(rows.times.asi8) < 0) & ~rows.breaks[1:])
    order = np.lexsort((np.arange(len(rows.codes)), rows.times.asi8, rows.codes))
    if config.unsorted == "error" and len(back):
        row = int(back[0]) + 1
        what = f"{rows.shown(row)} comes after {rows.local[row - 1]} ({len(back)} such rows)"
        remedy = f"sort the file, or set data.unsorted=sort{_clock_hint(rows)}"
        problems.append(Problem("error", place(config.path, rows.lines[row]), what, remedy))
    return rows.take(order)


def _without_repeats(rows: Rows, config: DataConfig, problems: list[Problem]) -> Rows:
    same = np.r_[False, (np.diff(rows.times.asi8) == 0) & ~rows.breaks[1:]]
    if not same.any():
        return rows
    rule = config.duplicates
    if rule == "error":
        row = int(np.flatnonzero(same)[0])
        what = f"{rows.shown(row)} is there twice ({int(same.sum())} repeated rows)"
        choices = f"set data.duplicates=first, last or mean{_clock_hint(rows)}"
        where = place(config.path, rows.lines[row])
        problems.append(Problem("error", where, what, f"remove one, or {choices}"))
    first = np.flatnonzero(~same)
    if rule == "last":
        return rows.take(np.r_[first[1:], len(same)] - 1)
    kept = rows.take(first)
    if rule != "mean":
        return kept
    counts = np.add.reduceat(np.isfinite(rows.data).astype(float), first, axis=0)
    sums = np.add.reduceat(np.nan_to_num(rows.data), first, axis=0)
    return replace(kept, data=np.where(counts > 0, sums / np.maximum(counts, 1), np.nan))


def _clock_hint(rows: Rows) -> str:
    return "" if rows.timezone else "; for the clock change of autumn set data.timezone"


def _without_gaps(
    rows: Rows,
    places: np.ndarray,
    frequency: str,
    config: DataConfig,
    problems: list[Problem],
) -> Rows | None:
    jumps = np.where(np.diff(rows.codes) == 0, np.diff(places) - 1, 0)
    if not jumps.any():
        return rows
    row, inserted = int(np.flatnonzero(jumps)[0]), int(jumps.sum())
    far = inserted > _MOST_INSERTED * len(rows.codes)
    if config.gaps == "error" or far:
        what = (
            f"no rows between {rows.shown(row)} and {rows.local[row + 1]} "
            f"({inserted} missing {frequency} steps in all)"
        )
        remedy = "add the rows, or set data.gaps=insert with data.missing=forward_fill or mask"
        if far:
            remedy = "correct the times or set data.frequency; so many steps are not inserted"
        elif not rows.timezone and is_sub_daily(frequency):
            remedy += "; for the clock change of spring set data.timezone"
        problems.append(Problem("error", place(config.path, rows.lines[row]), what, remedy))
        if far:
            return None
    target = np.arange(len(places)) + np.r_[0, np.cumsum(jumps)]
    source = np.repeat(np.arange(len(places)), np.r_[jumps, 0] + 1)
    steps = np.arange(len(source)) - target[source]
    new = np.flatnonzero(steps)
    filled = rows.take(source)
    data, lines = filled.data.copy(), filled.lines.copy()
    data[new], lines[new] = np.nan, -1
    times = filled.times.to_numpy("datetime64[ns]").copy()
    times[new] = later(filled.times[new], steps[new], frequency, rows.timezone)
    return replace(filled, data=data, lines=lines, times=pd.DatetimeIndex(times))

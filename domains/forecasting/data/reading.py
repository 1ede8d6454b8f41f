"""From a file of series to a panel, collecting everything that is wrong on the way."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from domains.forecasting.data.config import DataConfig
from domains.forecasting.data.frequency import grid_positions, infer_frequency
from domains.forecasting.data.panel import Panel
from domains.forecasting.data.table import numeric_column, place, read_table, time_column
from shared_runtime.domain import Problem
from shared_runtime.errors import DataError

_ID, _LONG_TIME, _LONG_TARGET = "unique_id", "ds", "y"


@dataclass(frozen=True)
class _Columns:
    layout: Literal["wide", "long"]
    time: str
    targets: tuple[str, ...]
    past: tuple[str, ...]
    future: tuple[str, ...]

    @property
    def values(self) -> tuple[str, ...]:
        return (*self.targets, *self.past, *self.future)


def read_panel(config: DataConfig) -> tuple[Panel | None, list[Problem]]:
    """Read `config.path`; return the panel, or None where errors leave none, and all problems.

    Stated behaviour: cells that are no number or time, infinite values, repeated or unsorted
    rows, timestamps off the grid, missing timestamps and missing values are errors; each error
    that can be repaired names the option that does it. A column that never changes is a warning.
    """
    problems: list[Problem] = []
    try:
        frame = read_table(config.path)
        columns = _columns(frame, config)
    except DataError as error:
        return None, [_as_problem(error, config.path)]
    times, timezone, found = time_column(frame, columns.time, config.path, config.timezone)
    problems += found
    data = np.empty((len(frame), len(columns.values)))
    for number, name in enumerate(columns.values):
        data[:, number], found = numeric_column(frame, name, config.path)
        problems += found
    if any(problem.severity == "error" for problem in problems):
        return None, problems
    if columns.layout == "long":
        ids = frame[_ID].astype("string")
        if ids.isna().any():
            row = int(np.flatnonzero(ids.isna())[0])
            problems.append(
                Problem("error", place(config.path, row, _ID), "no series name", "fill the cell in")
            )
            return None, problems
        codes, names = pd.factorize(ids, sort=False)
    else:
        codes, names = np.zeros(len(frame), dtype=np.int64), pd.Index([""])
    rows = _Rows(config, columns, codes, tuple(map(str, names)), times, timezone, data)
    panel = rows.panel(problems)
    failed = any(problem.severity == "error" for problem in problems)
    return (None if failed else panel), problems


def require_panel(config: DataConfig) -> Panel:
    """Return the panel of `config`.

    Raises:
        DataError: something is wrong; the message is the first error.
    """
    panel, problems = read_panel(config)
    if panel is None:
        first = next(problem for problem in problems if problem.severity == "error")
        raise DataError(f"{first.where}: {first.what}; {first.remedy}")
    return panel


def _columns(frame: pd.DataFrame, config: DataConfig) -> _Columns:
    names = list(frame.columns)
    layout = config.format
    if layout == "auto":
        layout = "long" if {_ID, _LONG_TIME} <= set(names) else "wide"
    if layout == "long":
        time = _LONG_TIME
        default: tuple[str, ...] = (_LONG_TARGET,)
        needed = [_ID, _LONG_TIME]
    else:
        time = next((n for n in names if n.lower() in ("date", "ds", "time", "timestamp")), "date")
        covariates = {*config.past_covariates, *config.future_covariates}
        default = tuple(n for n in names if n != time and n not in covariates)
        needed = [time]
    targets = config.targets or default
    wanted = [*needed, *targets, *config.past_covariates, *config.future_covariates]
    missing = [name for name in wanted if name not in names]
    if missing or not targets:
        expected = "unique_id, ds, y" if layout == "long" else "date and one column per channel"
        what = f"no column {missing[0]!r}" if missing else "no column to forecast"
        raise DataError(
            f"{config.path}: {what}; a {layout} file has {expected}, "
            f"this one has {', '.join(names)}"
        )
    return _Columns(
        "long" if layout == "long" else "wide",
        time,
        tuple(targets),
        config.past_covariates,
        config.future_covariates,
    )


@dataclass(frozen=True)
class _Rows:
    """Parsed rows in the order of the file."""

    config: DataConfig
    columns: _Columns
    codes: np.ndarray
    names: tuple[str, ...]
    times: pd.DatetimeIndex
    timezone: str | None
    data: np.ndarray

    def panel(self, problems: list[Problem]) -> Panel | None:
        """Sort, merge duplicates, fill the grid in and check; None where that cannot be done."""
        order = self._order(problems)
        if order is None:
            return None
        merged = self._merge(order, problems)
        if merged is None:
            return None
        codes, times, data = merged
        breaks = np.r_[True, codes[1:] != codes[:-1]]
        frequency = self.config.frequency or infer_frequency(times, breaks)
        if frequency is None:
            self._error(
                problems,
                f"column {self.columns.time!r}",
                "no regular time step is found",
                "set data.frequency, such as h, D or MS, or resample the data",
            )
            return None
        try:
            local = times if self.timezone is None else self._local(times, frequency)
            places = grid_positions(local, frequency)
        except ValueError as error:
            self._error(problems, "data.frequency", str(error), "use a pandas frequency such as h")
            return None
        if places is None:
            self._error(
                problems,
                f"column {self.columns.time!r}",
                f"some times are not on the {frequency} grid",
                "set data.frequency, or resample the data",
            )
            return None
        filled = self._fill(codes, times, places, data, frequency, problems)
        if filled is None:
            return None
        panel = self._assemble(*filled, frequency=frequency)
        self._check_values(panel, problems)
        return panel

    def _local(self, times: pd.DatetimeIndex, frequency: str) -> pd.DatetimeIndex:
        """Hours are counted in UTC, where none is missing or repeated; days in the zone."""
        offset = pd.tseries.frequencies.to_offset(frequency)
        if isinstance(offset, pd.offsets.Tick) and pd.Timedelta(offset) < pd.Timedelta(days=1):
            return times
        return times.tz_localize("UTC").tz_convert(self.timezone).tz_localize(None)

    def _order(self, problems: list[Problem]) -> np.ndarray | None:
        back = (np.diff(self.times.asi8) < 0) & (np.diff(self.codes) == 0)
        scattered = len(self.names) > 1 and (np.diff(self.codes) != 0).sum() >= len(self.names)
        if (back.any() or scattered) and self.config.unsorted == "error":
            row = int(np.flatnonzero(back)[0]) + 1 if back.any() else 0
            what = (
                f"time {self.times[row]} comes after {self.times[row - 1]}"
                if back.any()
                else "the rows of a series are not together"
            )
            self._error(problems, row, what, "sort the file, or set data.unsorted=sort")
            return None
        return np.lexsort((np.arange(len(self.times)), self.times.asi8, self.codes))

    def _merge(
        self, order: np.ndarray, problems: list[Problem]
    ) -> tuple[np.ndarray, pd.DatetimeIndex, np.ndarray] | None:
        codes, times, data = self.codes[order], self.times[order], self.data[order]
        same = np.r_[False, (np.diff(codes) == 0) & (np.diff(times.asi8) == 0)]
        if not same.any():
            return codes, times, data
        rule = self.config.duplicates
        if rule == "error":
            row = int(order[np.flatnonzero(same)[0]])
            clock = "" if self.timezone else "; for a clock change set data.timezone"
            self._error(
                problems,
                row,
                f"time {self.times[row]} is there twice ({int(same.sum())} repeated rows)",
                f"remove one, or set data.duplicates=first, last or mean{clock}",
            )
            return None
        group = np.cumsum(~same) - 1
        first = np.flatnonzero(~same)
        if rule == "first":
            data = data[first]
        elif rule == "last":
            data = data[np.r_[first[1:], len(same)] - 1]
        else:
            counts = np.zeros((len(first), data.shape[1]))
            sums = np.zeros_like(counts)
            np.add.at(counts, group, np.isfinite(data))
            np.add.at(sums, group, np.nan_to_num(data))
            data = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
        return codes[first], times[first], data

    def _fill(
        self,
        codes: np.ndarray,
        times: pd.DatetimeIndex,
        places: np.ndarray,
        data: np.ndarray,
        frequency: str,
        problems: list[Problem],
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        jumps = np.where(np.diff(codes) == 0, np.diff(places) - 1, 0)
        if not jumps.any():
            return codes, times.to_numpy("datetime64[ns]"), data
        row = int(np.flatnonzero(jumps)[0])
        if self.config.gaps == "error":
            series = self.names[codes[row]]
            self._error(
                problems,
                f"series {series!r}" if series else f"column {self.columns.time!r}",
                f"no rows between {times[row]} and {times[row + 1]} "
                f"({int(jumps.sum())} missing {frequency} steps in all)",
                "add the rows, or set data.gaps=insert with data.missing=forward_fill or mask",
            )
            return None
        target = np.arange(len(codes)) + np.r_[0, np.cumsum(jumps)]
        total = int(target[-1]) + 1
        grid_data = np.full((total, data.shape[1]), np.nan)
        grid_data[target] = data
        source = np.searchsorted(target, np.arange(total), side="right") - 1
        grid_codes = codes[source]
        steps = np.arange(total) - target[source]
        grid_times = times.to_numpy("datetime64[ns]")[source].copy()
        offset = pd.tseries.frequencies.to_offset(frequency)
        for index in np.flatnonzero(steps):
            start = pd.Timestamp(times[source[index]])
            if self.timezone is not None:
                start = start.tz_localize("UTC").tz_convert(self.timezone)
            moved = start + int(steps[index]) * offset
            naive = moved.tz_convert("UTC").tz_localize(None) if moved.tz is not None else moved
            grid_times[index] = naive.to_datetime64()
        return grid_codes, grid_times, grid_data

    def _assemble(
        self, codes: np.ndarray, times: np.ndarray, data: np.ndarray, *, frequency: str
    ) -> Panel:
        count = np.bincount(codes, minlength=len(self.names))
        targets, past = len(self.columns.targets), len(self.columns.past)
        values = data.astype(np.float32)
        return Panel(
            layout=self.columns.layout,
            ids=self.names,
            channels=self.columns.targets,
            values=values[:, :targets],
            past_covariates=values[:, targets : targets + past],
            future_covariates=values[:, targets + past :],
            times=times,
            offsets=np.r_[0, np.cumsum(count)].astype(np.int64),
            frequency=frequency,
            timezone=self.timezone,
            time_column=self.columns.time,
        )

    def _check_values(self, panel: Panel, problems: list[Problem]) -> None:
        whole = np.concatenate([panel.values, panel.past_covariates, panel.future_covariates], 1)
        known = panel.future_covariates.shape[1]
        for number, name in enumerate(self.columns.values):
            column = whole[:, number]
            missing = np.isnan(column)
            if known and number < len(self.columns.values) - known:
                missing &= ~_trailing(panel)
            if missing.any() and self.config.missing == "error":
                row = int(np.flatnonzero(missing)[0])
                series = int(np.searchsorted(panel.offsets, row, side="right")) - 1
                where = f"series {panel.ids[series]!r}, " if panel.ids[series] else ""
                self._error(
                    problems,
                    f"{where}column {name!r}, time {pd.Timestamp(panel.times[row])}",
                    f"a missing value ({int(missing.sum())} in the column)",
                    "fill it in, or set data.missing=forward_fill or mask",
                )
            seen = column[~np.isnan(column)]
            if len(seen) and (seen == seen[0]).all():
                problems.append(
                    Problem(
                        "warning",
                        f"{self.config.path}: column {name!r}",
                        f"every value is {seen[0]:g}",
                        "leave the column out, it tells a model nothing",
                    )
                )

    def _error(self, problems: list[Problem], where: int | str, what: str, remedy: str) -> None:
        path: Path = self.config.path
        named = place(path, where) if isinstance(where, int) else f"{path}: {where}"
        problems.append(Problem("error", named, what, remedy))


def _trailing(panel: Panel) -> np.ndarray:
    """Rows after the last observed target of each series: a horizon with known covariates."""
    observed = ~np.isnan(panel.values).all(axis=1)
    trailing = np.zeros(len(observed), dtype=bool)
    for start, stop in zip(panel.offsets[:-1], panel.offsets[1:], strict=True):
        seen = np.flatnonzero(observed[start:stop])
        trailing[start + (seen[-1] + 1 if len(seen) else 0) : stop] = True
    return trailing


def _as_problem(error: DataError, path: Path) -> Problem:
    text = str(error).removeprefix(f"{path}: ")
    what, _, remedy = text.partition("; ")
    return Problem("error", str(path), what, remedy or "give a readable file")

"""From a file of series to a panel, collecting everything that is wrong on the way."""

from __future__ import annotations

import numpy as np
import pandas as pd

from domains.forecasting.data.clock import time_column
from domains.forecasting.data.columns import Columns, find_columns
from domains.forecasting.data.config import DataConfig
from domains.forecasting.data.grid import Rows, on_grid
from domains.forecasting.data.panel import Panel
from domains.forecasting.data.table import SERIES, numeric_column, place, read_table
from shared_runtime.domain import Problem
from shared_runtime.errors import DataError


def read_panel(config: DataConfig) -> tuple[Panel | None, list[Problem]]:
    """Read `config.path`; return the panel, or None where errors leave none, and all problems.

    Stated behaviour: cells that are no number or time, infinite values, repeated or unsorted
    rows, timestamps off the grid, missing timestamps and missing values are errors; each error
    that can be repaired names the option that does it. Series may be interleaved. A column that
    never changes is a warning. Missing targets after the last observed one, beside known future
    covariates, are the horizon to forecast and no problem.
    """
    try:
        frame = read_table(config.path)
        columns = find_columns(frame, config)
    except DataError as error:
        return None, [_as_problem(error, config)]
    problems: list[Problem] = []
    codes, names = _series(frame, columns, config, problems)
    times, timezone, found = time_column(frame, columns.time, config.path, config.timezone, codes)
    problems += found
    data = np.empty((len(frame), len(columns.values)))
    wrong = set()
    for number, name in enumerate(columns.values):
        data[:, number], found = numeric_column(frame, name, config.path)
        problems += found
        wrong |= {name} if found else set()
    if times.hasnans or (codes < 0).any():
        return None, problems
    rows = Rows(codes, times, data, frame.index.to_numpy(), names, timezone)
    gridded = on_grid(rows, config, problems)
    if gridded is None:
        return None, problems
    rows, frequency = gridded
    panel = _panel(rows, columns, frequency)
    for number, name in enumerate(columns.values):
        if name not in wrong:
            _check_values(panel, rows, columns, number, config, problems)
    failed = any(problem.severity == "error" for problem in problems)
    return (None if failed else panel), problems


def require_panel(config: DataConfig) -> Panel:
    """Return the panel of `config`.

    Raises:
        DataError: something is wrong; the message is the first error.
    """
    panel, problems = read_panel(config)
    if panel is None:
        errors = [problem for problem in problems if problem.severity == "error"]
        more = f" ({len(errors) - 1} more: heed forecasting check)" if len(errors) > 1 else ""
        raise DataError(f"{errors[0].where}: {errors[0].what}; {errors[0].remedy}{more}")
    return panel


def _series(
    frame: pd.DataFrame, columns: Columns, config: DataConfig, problems: list[Problem]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the number of the series of each row, -1 where it has no name, and the names."""
    if columns.layout == "wide":
        return np.zeros(len(frame), dtype=np.int64), ("",)
    codes, names = pd.factorize(frame[SERIES].astype("string"))
    nameless = np.flatnonzero(codes < 0)
    if len(nameless):
        where = place(config.path, frame.index[nameless[0]], SERIES)
        what = f"no name of a series ({len(nameless)} such cells)"
        problems.append(Problem("error", where, what, "fill the cells in"))
    return codes.astype(np.int64), tuple(map(str, names))


def _panel(rows: Rows, columns: Columns, frequency: str) -> Panel:
    counts = np.bincount(rows.codes, minlength=len(rows.names))
    targets, past = len(columns.targets), len(columns.past)
    return Panel(
        layout=columns.layout,
        ids=rows.names,
        channels=columns.targets,
        values=rows.data[:, :targets],
        past_covariates=rows.data[:, targets : targets + past],
        future_covariates=rows.data[:, targets + past :],
        times=rows.times.to_numpy("datetime64[ns]"),
        offsets=np.r_[0, np.cumsum(counts)].astype(np.int64),
        frequency=frequency,
        timezone=rows.timezone,
        time_column=columns.time,
    )


def _check_values(
    panel: Panel,
    rows: Rows,
    columns: Columns,
    number: int,
    config: DataConfig,
    problems: list[Problem],
) -> None:
    name, column = columns.values[number], rows.data[:, number]
    missing = np.isnan(column)
    if columns.future and name not in columns.future:
        missing &= ~panel.horizon_rows
    if config.gaps == "error":
        missing &= rows.lines >= 0
    if missing.any() and config.missing == "error":
        row = int(np.flatnonzero(missing)[0])
        if rows.lines[row] >= 0:
            where = place(config.path, rows.lines[row], name)
        else:
            where = f"{config.path}: {rows.shown(row)}, column {name!r}"
        what = f"a missing value ({int(missing.sum())} in the column)"
        remedy = "fill it in, or set data.missing=forward_fill or mask"
        problems.append(Problem("error", where, what, remedy))
    seen = column[~np.isnan(column)]
    if not len(seen) or (seen == seen[0]).all():
        what = f"every value is {seen[0]:g}" if len(seen) else "no value at all"
        where = f"{config.path}: column {name!r}"
        remedy = "leave the column out, it tells a model nothing"
        problems.append(Problem("warning", where, what, remedy))


def _as_problem(error: DataError, config: DataConfig) -> Problem:
    what, _, remedy = str(error).removeprefix(f"{config.path}: ").partition("; ")
    return Problem("error", str(config.path), what, remedy)

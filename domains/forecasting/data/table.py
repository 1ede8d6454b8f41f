"""A CSV or Parquet file as a table, with every cell that is not what it should be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from shared_runtime.domain import Problem
from shared_runtime.errors import DataError

_PARQUET = {".parquet", ".pq"}


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV or Parquet file, columns as they are written.

    Raises:
        DataError: the file is missing, empty or not a table.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; give the path of a CSV or Parquet file")
    try:
        if path.suffix.lower() in _PARQUET:
            frame = pd.read_parquet(path)
        else:
            frame = pd.read_csv(path, low_memory=False, skipinitialspace=True)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path}: not a readable table ({_one_line(error)})") from error
    except ValueError as error:
        raise DataError(f"{path}: not a readable table ({_one_line(error)})") from error
    if frame.empty:
        raise DataError(f"{path}: no rows below the header; give a file with data")
    frame.columns = [str(name).strip() for name in frame.columns]
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        raise DataError(f"{path}: column {twice[0]!r} appears twice; rename one")
    return frame


def place(path: Path, row: int, column: str | None = None) -> str:
    """Name a cell as an editor shows it: the header of a CSV is line 1."""
    unit, number = ("row", row) if path.suffix.lower() in _PARQUET else ("line", row + 2)
    where = f"{path}: {unit} {number}"
    return where if column is None else f"{where}, column {column!r}"


def numeric_column(
    frame: pd.DataFrame, column: str, path: Path
) -> tuple[np.ndarray, list[Problem]]:
    """Return a column as float64 `[T]`, NaN where missing or wrong, and what is wrong."""
    raw = frame[column]
    if raw.dtype == bool:
        raw = raw.astype("int8")
    values = pd.to_numeric(raw, errors="coerce").to_numpy("float64", na_value=np.nan)
    problems = []
    text = np.flatnonzero(np.isnan(values) & raw.notna().to_numpy())
    if len(text):
        problems.append(
            Problem(
                "error",
                place(path, int(text[0]), column),
                f"{raw.iloc[text[0]]!r} is not a number ({len(text)} such cells in the column)",
                "correct the cells, or leave them empty for missing values",
            )
        )
    infinite = np.flatnonzero(np.isinf(values))
    if len(infinite):
        problems.append(
            Problem(
                "error",
                place(path, int(infinite[0]), column),
                f"an infinite value ({len(infinite)} in the column)",
                "correct the cells, or leave them empty for missing values",
            )
        )
        values[infinite] = np.nan
    return values, problems


def time_column(
    frame: pd.DataFrame, column: str, path: Path, timezone: str
) -> tuple[pd.DatetimeIndex, str | None, list[Problem]]:
    """Return a column as times, in UTC where they have a zone, with that zone's name.

    Naive times stay naive unless `timezone` is given; then clock changes are resolved by it. The
    repeated hour of autumn is taken in the order of the file.
    """
    raw = frame[column]
    empty: list[Problem] = []
    if pd.api.types.is_numeric_dtype(raw):
        problem = Problem(
            "error",
            f"{path}: column {column!r}",
            "numbers where times are expected",
            "write times as 2024-01-31 or 2024-01-31 13:00",
        )
        return pd.DatetimeIndex([pd.NaT] * len(raw)), None, [problem]
    text = raw if pd.api.types.is_datetime64_any_dtype(raw) else raw.astype("string")
    aware = _has_zone(text)
    parsed = pd.to_datetime(text, errors="coerce", utc=aware, format=_format(text))
    bad = np.flatnonzero(parsed.isna().to_numpy())
    if len(bad):
        problem = Problem(
            "error",
            place(path, int(bad[0]), column),
            f"{raw.iloc[bad[0]]!r} is not a time ({len(bad)} such cells)",
            "write times as 2024-01-31 or 2024-01-31 13:00",
        )
        return pd.DatetimeIndex([pd.NaT] * len(raw)), None, [problem]
    index = pd.DatetimeIndex(parsed).as_unit("ns")
    if aware:
        return index.tz_localize(None), timezone or "UTC", empty
    if not timezone:
        return index, None, empty
    try:
        return _localise(index, timezone), timezone, empty
    except (ValueError, KeyError, OSError) as error:
        problem = Problem(
            "error",
            f"{path}: column {column!r}",
            f"times do not fit data.timezone={timezone} ({_one_line(error)})",
            "correct the times or the zone, or write times with their offset",
        )
        return index, None, [problem]


def _localise(index: pd.DatetimeIndex, timezone: str) -> pd.DatetimeIndex:
    """Convert naive local times to UTC; the second reading of a repeated hour is standard time."""
    doubtful = index.tz_localize(timezone, ambiguous="NaT", nonexistent="raise").isna()
    first = ~pd.Series(index).duplicated().to_numpy() & doubtful
    return (
        index.tz_localize(timezone, ambiguous=first, nonexistent="raise")
        .tz_convert("UTC")
        .tz_localize(None)
    )


def _has_zone(column: pd.Series) -> bool:
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        return True
    if pd.api.types.is_datetime64_any_dtype(column):
        return False
    return bool(column.str.contains(r"(?:Z|[+-]\d{2}:?\d{2})\s*$", regex=True, na=False).any())


def _format(column: pd.Series) -> str | None:
    if pd.api.types.is_datetime64_any_dtype(column):
        return None
    iso = column.str.match(r"^\d{4}-\d{2}-\d{2}", na=False).all()
    return "ISO8601" if iso else "mixed"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]

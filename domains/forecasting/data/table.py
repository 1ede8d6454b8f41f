"""A CSV or Parquet file as a table, with every cell that is not what it should be."""

from __future__ import annotations

import warnings
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

from shared_runtime.domain import Problem
from shared_runtime.errors import DataError

PARQUET = {".parquet", ".pq"}
SERIES = "unique_id"
_LARGEST = float(np.finfo(np.float32).max)


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV or Parquet file; its index is the number of each row in the file.

    Names of series stay the text they are (`007`, `NA`), an index that Parquet holds becomes
    columns, and rows of empty cells are left out.

    Raises:
        DataError: the file is missing, empty or not a table.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; give the path of a CSV or Parquet file")
    try:
        frame = _read_parquet(path) if path.suffix.lower() in PARQUET else _read_csv(path)
    except pd.errors.ParserWarning as error:
        raise DataError(
            f"{path}: rows have more cells than the header; give every column a name"
        ) from error
    except DataError:
        raise
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: not a readable table ({one_line(error)}); give a CSV or Parquet file"
        ) from error
    frame = frame.dropna(how="all")
    if frame.empty:
        raise DataError(f"{path}: no rows below the header; give a file with data")
    return frame


def _read_csv(path: Path) -> pd.DataFrame:
    header = pd.read_csv(path, header=None, nrows=1, dtype=str, skipinitialspace=True)
    names = _unique_names(path, [str(name) for name in header.iloc[0].fillna("")])
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        frame = pd.read_csv(
            path,
            header=0,
            names=names,
            index_col=False,
            converters={SERIES: str.strip},
            skip_blank_lines=False,
            skipinitialspace=True,
            low_memory=False,
        )
    if SERIES in frame:
        frame[SERIES] = frame[SERIES].replace("", None)
    return frame


def _read_parquet(path: Path) -> pd.DataFrame:
    frame = pd.read_parquet(path)
    if any(name is not None for name in frame.index.names):
        frame = frame.reset_index()
    frame.index = pd.RangeIndex(len(frame))
    return frame.set_axis(_unique_names(path, [str(name) for name in frame.columns]), axis=1)


def _unique_names(path: Path, names: list[str]) -> list[str]:
    names = [name.strip() for name in names]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{path}: column {twice[0]!r} appears twice; rename one")
    broken = [name for name in names if len(name.splitlines()) > 1]
    if broken:
        raise DataError(f"{path}: column {broken[0]!r} has a line break in its name; rename it")
    return names


def place(path: Path, row: int, column: str | None = None) -> str:
    """Name a cell as an editor shows it: the header of a CSV is line 1."""
    unit, number = ("row", row) if path.suffix.lower() in PARQUET else ("line", row + 2)
    where = f"{path}: {unit} {number}"
    return where if column is None else f"{where}, column {column!r}"


def numeric_column(
    frame: pd.DataFrame, column: str, path: Path
) -> tuple[np.ndarray, list[Problem]]:
    """Return a column as float64 `[T]`, NaN where missing or wrong, and what is wrong.

    True and false count as 1 and 0.
    """
    raw = frame[column]
    if isinstance(raw.dtype, pd.CategoricalDtype):
        raw = raw.astype(raw.cat.categories.dtype)
    if raw.dtype.kind in "mMc":
        problem = Problem(
            "error",
            f"{path}: column {column!r}",
            f"{raw.dtype} where numbers are expected",
            "leave the column out with data.targets, or convert it",
        )
        return np.full(len(raw), np.nan), [problem]
    if raw.dtype == bool:
        raw = raw.astype("int8")
    values = pd.to_numeric(raw, errors="coerce").to_numpy("float64", na_value=np.nan, copy=True)
    problems = []
    text = np.flatnonzero(np.isnan(values) & raw.notna().to_numpy())
    if len(text):
        problems.append(
            Problem(
                "error",
                place(path, frame.index[text[0]], column),
                f"{raw.iloc[text[0]]!r} is not a number ({len(text)} such cells in the column)",
                "correct the cells, or leave them empty for missing values",
            )
        )
    large = np.flatnonzero(np.abs(values) > _LARGEST)
    if len(large):
        kind = "an infinite value" if np.isinf(values[large[0]]) else "a value beyond 3.4e38"
        problems.append(
            Problem(
                "error",
                place(path, frame.index[large[0]], column),
                f"{kind} ({len(large)} such cells in the column)",
                "correct the cells, or leave them empty for missing values",
            )
        )
        values[large] = np.nan
    return values, problems


def one_line(error: Exception) -> str:
    """Return the text of an error on one line."""
    return " ".join(str(error).split())[:200]

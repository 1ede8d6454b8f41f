"""Columns of CSV and Parquet tables under our names, as numbers and times."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv, parquet

from domains.finance.data.cells import MISSING, nanoseconds, parse, to_float
from domains.finance.data.findings import Findings
from shared_runtime.errors import DataError

PARQUET = (".parquet", ".pq")
TABLES = (".csv", *PARQUET)
_RAGGED = re.compile(r"Row #(\d+): Expected (\d+) columns, got (\d+)")
TIMES = ("timestamp", "time", "ts", "date", "datetime", "local_timestamp", "E", "T")


@dataclass(frozen=True)
class Table:
    """A table as it is in its file.

    Attributes:
        path: The file.
        data: Columns under the names of the file; those of a CSV are all text.
        theirs: Name in the file of each of our names that it has.
        first: Number of the first row: 2, as an editor shows it, for a CSV with a header.
    """

    path: Path
    data: pa.Table
    theirs: Mapping[str, str]
    first: int

    def __len__(self) -> int:
        return len(self.data)

    def __contains__(self, ours: str) -> bool:
        return ours in self.theirs

    def findings(self) -> Findings:
        """Return an empty collection whose rows are counted as in the file."""
        return Findings(self.path, "line" if self.first == 2 else "row")

    def column(self, ours: str) -> pa.ChunkedArray:
        """Return a column as it is in the file."""
        return self.data.column(self.theirs[ours])

    def numbers(self, ours: str, findings: Findings, optional: bool = False) -> np.ndarray:
        """Return a column as float64 `[N]`, NaN where missing or, which is an error, no number.

        Args:
            ours: Our name of the column.
            findings: Where cells that are wrong go.
            optional: Whether missing cells are no error.
        """
        column = self.column(ours)
        name = self.theirs[ours]
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            values = parse(column)
        else:
            try:
                values = to_float(column)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
                findings.file("error", f"column {name!r} is {column.type}", "give numbers")
                return np.full(len(column), np.nan)
        wrong = np.isinf(values)
        missing = np.zeros(len(values), dtype=bool)
        empty = np.flatnonzero(np.isnan(values))
        if len(empty):
            cells = column.take(pa.array(empty)).to_pylist()
            blank = np.array([cell is None or str(cell).strip() in MISSING for cell in cells])
            missing[empty[blank]] = True
            wrong[empty[~blank]] = True
        if not optional:
            rows = np.flatnonzero(missing)
            what = f"column {name!r}: a missing value"
            findings.rows("error", rows + self.first, what, "fill the cell in or remove the row")
        rows = np.flatnonzero(wrong)
        findings.rows(
            "error",
            rows + self.first,
            f"column {name!r}: a cell that is no finite number",
            "correct the cell",
            lambda n: f"column {name!r}: {str(column[int(rows[n])].as_py())[:40]!r} is no number",
        )
        return values

    def times(self, findings: Findings) -> np.ndarray:
        """Return the time column as int64 nanoseconds since 1970 `[N]`.

        Whole numbers and decimals count seconds, milliseconds, microseconds or nanoseconds, which
        their size tells; text is ISO 8601, in UTC where it names no zone.
        """
        column = self.column("timestamp")
        name = self.theirs["timestamp"]
        found = nanoseconds(column)
        if found is None:
            findings.file("error", f"column {name!r} holds no times", "give epochs or ISO 8601")
            return np.zeros(len(column), dtype=np.int64)
        times, wrong = found
        rows = np.flatnonzero(wrong)
        findings.rows(
            "error",
            rows + self.first,
            f"column {name!r}: a cell that is no time",
            "write whole numbers since 1970, or ISO 8601",
            lambda n: f"column {name!r}: {str(column[int(rows[n])].as_py())[:40]!r} is no time",
        )
        return times


def read_table(path: Path, columns: Sequence[str]) -> Table:
    """Read a CSV file with a header, or a Parquet file.

    Args:
        path: The file.
        columns: `ours=theirs` for names that differ.

    Raises:
        DataError: the file is no table, or a name of `columns` is not in it.
    """
    try:
        if path.suffix.lower() in PARQUET:
            data, first = parquet.read_table(path), 1
            data.validate(full=True)
        else:
            data, first = _read_csv(path), 2
        names = list(data.column_names)
    except DataError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        text = " ".join(str(error).split())[:200]
        raise DataError(f"{path}: not a readable table ({text}); correct the file") from error
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{path}: column {twice[0]!r} appears twice; rename one")
    theirs = {name.strip().lower(): name for name in names} | {name: name for name in names}
    if "timestamp" not in theirs:
        time = next((name for name in TIMES if name in theirs), None)
        theirs |= {} if time is None else {"timestamp": theirs[time]}
    for entry in columns:
        ours, _, name = entry.partition("=")
        if name not in names:
            shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            raise DataError(
                f"{path}: no column {name!r}, which data.columns names; name one of {shown}"
            )
        theirs[ours] = name
    return Table(path, data, theirs, first)


def smallest_step(*prices: np.ndarray) -> float:
    """Return the smallest difference between prices; 0.01 where there is none."""
    sample = np.unique(np.concatenate([price.ravel()[:200_000] for price in prices]).round(10))
    steps = np.diff(sample[~np.isnan(sample)])
    return float(f"{steps.min():.10g}") if len(steps) else 0.01


def _read_csv(path: Path) -> pa.Table:
    with path.open("rb") as file:
        header = file.readline(1 << 20).removeprefix(b"\xef\xbb\xbf")
    if not header.strip():
        raise ValueError("the first line is empty, it names the columns")
    names = [name.strip().strip('"') for name in header.decode("utf-8", "replace").split(",")]
    if any(not name or any(ord(letter) < 32 for letter in name) for name in names):
        raise ValueError("the first line does not name every column")
    if len(set(names)) < len(names):
        return pa.table([pa.array([], pa.string())] * len(names), names=names)
    read = csv.ReadOptions(column_names=names, skip_rows=1, block_size=1 << 22)
    options = (
        csv.ParseOptions(ignore_empty_lines=False),
        csv.ConvertOptions(
            column_types={name: pa.string() for name in names},
            null_values=[],
            strings_can_be_null=False,
        ),
    )
    try:
        return csv.read_csv(path, read, *options)
    except pa.ArrowInvalid:
        read.use_threads = False
        return _numbered(path, read, *options)


def _numbered(path: Path, *options: Any) -> pa.Table:
    """Read with one thread, whose errors know their line."""
    try:
        return csv.read_csv(path, *options)
    except pa.ArrowInvalid as error:
        found = _RAGGED.search(str(error))
        if found is None:
            raise
        line, expected, got = found.groups()
        raise DataError(
            f"{path}: line {line}: {got} columns, expected {expected}; correct the line; the last "
            "one may be cut short"
        ) from error

"""Cells of LOBSTER's files as integers, read by several threads, or what is wrong with them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from domains.finance.data.findings import Findings

EMPTY = 9_999_999_999
"""Price of an empty ask level; that of an empty bid level is its negative."""
SCALE = 10_000
"""Price units in one unit of the quote currency."""
MESSAGE_COLUMNS = ("time", "type", "order_id", "size", "price", "direction")
_TIME, _FINE_TIME = pa.decimal128(18, 9), pa.decimal128(30, 18)
_BLOCK = 1 << 21
_WHOLE = rb"[ \t]*-?\d{1,18}[ \t]*"
_SECONDS = rb"[ \t]*-?\d{1,9}(\.\d{0,18})?[ \t]*"


@dataclass(frozen=True)
class Messages:
    """LOBSTER's messages in its own units, one array per column."""

    time: np.ndarray
    """int64 `[N]`, nanoseconds after midnight."""
    type: np.ndarray
    """int64 `[N]`, of `EventType`."""
    order_id: np.ndarray
    """int64 `[N]`."""
    size: np.ndarray
    """int64 `[N]`."""
    price: np.ndarray
    """int64 `[N]`, ten-thousandths of the quote currency."""
    direction: np.ndarray
    """int64 `[N]`: 1 buy limit order, -1 sell limit order."""

    def __len__(self) -> int:
        return len(self.time)

    def rows(self, chosen: np.ndarray | slice) -> Messages:
        """Return the messages at `chosen` rows."""
        columns = (getattr(self, name)[chosen] for name in MESSAGE_COLUMNS)
        return Messages(*columns)


def read_messages(path: Path, findings: Findings) -> Messages | None:
    """Read a message file; None where cells are wrong, which `findings` then tells.

    Times are exact to the nanosecond; decimals beyond are rounded with a warning.
    """
    table = _read(path, MESSAGE_COLUMNS, MESSAGE_COLUMNS, _TIME)
    if table is None:
        table = _rounded(_read(path, MESSAGE_COLUMNS, MESSAGE_COLUMNS, _FINE_TIME))
        if table is None:
            _explain(path, [_SECONDS, *[_WHOLE] * 5], findings)
            return None
        findings.file(
            "warning",
            "times have more than nine decimals",
            "nothing to do: they are rounded to nanoseconds",
        )
    time = [unscaled(chunk) for chunk in table.column("time").chunks]
    whole = [table.column(name).to_numpy() for name in MESSAGE_COLUMNS[1:]]
    return Messages(np.concatenate(time), *whole)


def read_book(path: Path, levels: int, findings: Findings) -> pa.Table | None:
    """Read the best `levels` of an order book file: a table of `4 levels` integer columns.

    None where cells are wrong or the file has fewer levels, which `findings` then tells.
    """
    columns = count_columns(path)
    if columns % 4 or not columns:
        what = f"{columns} columns in the first row, expected four for each level"
        findings.file("error", what, "give the order book file as LOBSTER wrote it")
        return None
    if columns < 4 * levels:
        what = f"{columns // 4} levels, {levels} are to be used"
        findings.file("error", what, f"set data.levels to {columns // 4} or less")
        return None
    names = [str(number) for number in range(columns)]
    table = _read(path, names, names[: 4 * levels], pa.int64())
    if table is None:
        _explain(path, [_WHOLE] * columns, findings)
    return table


def warn_of_cut_end(path: Path, findings: Findings, rows: int) -> None:
    """Warn where the last line has no end, as the last one of a cut order book file.

    The last cell of a message, 1 or -1, cannot be cut unnoticed; a size can.
    """
    with path.open("rb") as file:
        file.seek(-1, 2)
        if file.read(1) not in b"\r\n":
            findings.rows(
                "warning",
                np.array([rows]),
                "the last line has no line end and may be cut short",
                "compare the size of the file with where it came from",
            )


def count_columns(path: Path) -> int:
    """Return how many columns the first row of a file has."""
    with path.open("rb") as file:
        line = file.readline(1 << 20)
    return 1 + line.count(b",") if line.strip() else 0


def _read(
    path: Path, names: list[str] | tuple[str, ...], used: list[str] | tuple[str, ...], first: object
) -> pa.Table | None:
    """Return columns of integers, the first of type `first`; None where one cell is wrong."""
    types = {name: pa.int64() for name in names} | {names[0]: first}
    try:
        return csv.read_csv(
            path,
            csv.ReadOptions(column_names=list(names), block_size=_BLOCK),
            csv.ParseOptions(quote_char=False, ignore_empty_lines=False),
            csv.ConvertOptions(
                column_types=types,
                include_columns=list(used),
                null_values=[],
                strings_can_be_null=False,
                check_utf8=False,
            ),
        )
    except (pa.ArrowInvalid, pa.ArrowKeyError):
        return None


def _rounded(table: pa.Table | None) -> pa.Table | None:
    """Round times to nanoseconds; None where they are beyond what these can hold."""
    if table is None:
        return None
    try:
        return table.set_column(0, "time", pc.round(table["time"], ndigits=9).cast(_TIME))
    except pa.ArrowInvalid:
        return None


def unscaled(chunk: pa.Decimal128Array) -> np.ndarray:
    """Return decimals below 2^63 as whole multiples of their last digit, int64 `[N]`."""
    halves = np.frombuffer(chunk.buffers()[1], dtype="<i8")
    return halves[2 * chunk.offset : 2 * (chunk.offset + len(chunk)) : 2]


def _explain(path: Path, cells: list[bytes], findings: Findings) -> None:
    """Add every line that is not `cells`, separated by commas, to `findings`."""
    content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    lines = content.splitlines()
    if not lines:
        findings.file("error", "no rows", "give a file with data")
        return
    right = re.compile(b",".join(cells))
    patterns = [re.compile(cell) for cell in cells]
    counts, texts = [], []
    for number, line in enumerate(lines, 1):
        if right.fullmatch(line):
            continue
        parts = line.split(b",")
        if len(parts) != len(cells):
            counts.append((number, len(parts)))
            continue
        wrong = next(n for n, cell in enumerate(parts) if not patterns[n].fullmatch(cell))
        texts.append((number, wrong + 1, parts[wrong]))
    findings.rows(
        "error",
        np.array([number for number, _ in counts]),
        f"not {len(cells)} columns",
        "correct the line; the last one may be cut short",
        lambda n: f"{counts[n][1]} columns, expected {len(cells)}",
    )
    findings.rows(
        "error",
        np.array([number for number, _, _ in texts]),
        "a cell that is not a number",
        "correct the cell; LOBSTER's files have no header and only numbers",
        lambda n: f"column {texts[n][1]}: {_shown(texts[n][2])} is not a number",
    )
    if not counts and not texts:
        findings.file(
            "error", f"not readable as {len(cells)} columns of numbers", "give LOBSTER's own file"
        )


def _shown(cell: bytes) -> str:
    return repr(cell[:40].decode("utf-8", errors="replace"))

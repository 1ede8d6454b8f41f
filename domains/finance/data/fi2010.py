"""FI-2010 text files: 149 rows, one column per time step, stocks and days one after the other."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv

from domains.finance.data.book import BookSeries
from domains.finance.data.findings import Findings
from shared_runtime.domain import Problem
from shared_runtime.errors import DataError

ROWS = 149
LEVELS = 10
GIVEN = slice(40, 144)
LABELS = slice(144, 149)
HORIZONS = (10, 20, 30, 50, 100)
EVENTS_PER_COLUMN = 10
STANDARD_TRAIN, STANDARD_TEST = 7, (7, 8, 9)
_NAME = re.compile(
    r"(?P<part>Train|Test)_Dst_(?P<auction>(No)?Auction)_(?P<scaling>ZScore|MinMax|DecPre)"
    r"_CF_(?P<fold>\d+)\.txt",
    re.IGNORECASE,
)
_TOGETHER = 3.0
_BLOCK = 500
_TO_LINES = bytes.maketrans(b" \t\v\f\r", b"\n" * 5)


def is_fi2010(path: Path) -> bool:
    """Say whether a name is one of the data set's."""
    return _NAME.fullmatch(path.name) is not None


def fi2010_files(folder: Path) -> tuple[list[Path], list[Problem]]:
    """Return the files below a folder that are used together, training files first.

    Where several folds are there, the published set-up is taken: training fold 7 (days 1 to 7)
    and test folds 7 to 9 (days 8 to 10). A folder with several scalings is an error.
    """
    named = [(path, _NAME.fullmatch(path.name)) for path in sorted(folder.rglob("*.txt"))]
    found = [(path, name) for path, name in named if name is not None and path.is_file()]
    kinds = sorted({f"{name['auction']}_{name['scaling']}".lower() for _, name in found})
    if len(kinds) > 1:
        what = f"files of {' and '.join(kinds)}"
        remedy = "give the folder of one of them"
        return [], [Problem("error", str(folder), what, remedy)]
    folds: dict[str, set[int]] = {"train": set(), "test": set()}
    for _, name in found:
        folds[name["part"].lower()].add(int(name["fold"]))
    published = {"train": {STANDARD_TRAIN}, "test": set(STANDARD_TEST)}
    several = len(folds["train"]) > 1 and all(published[part] <= folds[part] for part in folds)
    files: list[Path] = []
    left: list[Path] = []
    for path, name in sorted(found, key=lambda item: item[1]["part"].lower() == "test"):
        used = not several or int(name["fold"]) in published[name["part"].lower()]
        (files if used else left).append(path)
    if not left:
        return files, []
    what = f"{len(left)} files of other folds"
    remedy = "nothing to do: train fold 7 and test folds 7 to 9 are used, as published"
    return files, [Problem("warning", str(folder), what, remedy)]


def read_fi2010(
    path: Path, levels: int = LEVELS, tick: float = 0.0
) -> tuple[list[BookSeries], list[Problem]]:
    """Read one file as one series per stock and day.

    Rows 1 to 40 are the book, 41 to 144 `given`, 145 to 149 the labels for the next 10, 20, 30,
    50 and 100 events; columns are 10 events apart. The file says neither stock, day nor time:
    series are numbered as they come, and time is the number of the column. Files of z-scores and
    min-max values, and files whose name does not say, are `normalised`.

    A boundary between stocks or days is a step at which all twenty prices move in the same
    direction by more than 3 times the usual move, which is the 95th percentile of the median move
    of the prices, over the quieter of the 500 steps around it. A book that opens at the prices
    the last one closed with cannot be told from one that goes on.
    """
    findings = Findings(path, unit="column")
    values = _read(path, levels, findings)
    if values is None:
        return [], findings.problems()
    name = _NAME.fullmatch(path.name)
    normalised = name is None or name["scaling"].lower() != "decpre"
    codes = values[LABELS].T
    wrong = ~np.isin(codes, (1, 2, 3))
    labels = np.where(wrong, 2, codes).astype(np.int8) - 1
    for column, horizon in enumerate(HORIZONS):
        rows = np.flatnonzero(wrong[:, column])
        findings.rows(
            "error",
            rows + 1,
            f"unknown label for {horizon} events",
            "labels are 1 (up), 2 (stationary) and 3 (down)",
        )
    book = np.ascontiguousarray(values[: 4 * levels].T)
    if not normalised:
        _check(book, findings)
        book[:, 0::2][book[:, 0::2] == 0] = np.nan
    if findings.failed:
        return [], findings.problems()
    edges = [0, *boundaries(values[0:40:2]).tolist(), values.shape[1]]
    whole = BookSeries(
        instrument=path.stem,
        day="",
        time=np.arange(1, values.shape[1] + 1),
        book=book,
        source=str(path),
        tick=tick or (0.01 if normalised else _smallest_step(book[:, 0])),
        given=np.ascontiguousarray(values[GIVEN].T),
        given_labels=labels,
        given_horizons=HORIZONS,
        normalised=normalised,
    )
    parts = [whole.rows(slice(a, b)) for a, b in itertools.pairwise(edges)]
    return [_named(part, number) for number, part in enumerate(parts, 1)], findings.problems()


def boundaries(prices: np.ndarray) -> np.ndarray:
    """Return the first column of each stock or day but the first, from prices `[20, N]`."""
    move = np.diff(prices, axis=1)
    if not move.size:
        return np.zeros(0, dtype=np.int64)
    together = np.where(
        (move > 0).all(axis=0) | (move < 0).all(axis=0), np.abs(move).min(axis=0), 0
    )
    usual = np.median(np.abs(move), axis=0)
    blocks = [usual[start : start + _BLOCK] for start in range(0, len(usual), _BLOCK)]
    scale = np.array([np.quantile(block, 0.95) for block in blocks])
    fallback = usual[usual > 0].min(initial=np.inf)
    scale[scale == 0] = fallback
    padded = np.pad(scale, 1, mode="edge")
    quiet = np.minimum(np.minimum(padded[:-2], padded[2:]), scale)
    return np.flatnonzero(together > _TOGETHER * np.repeat(quiet, _BLOCK)[: len(usual)]) + 1


def _named(series: BookSeries, number: int) -> BookSeries:
    fields = {**series.__dict__, "instrument": f"{series.instrument} part {number}"}
    return BookSeries(**fields)


def _read(path: Path, levels: int, findings: Findings) -> np.ndarray | None:
    """Return the numbers of a file, float64 `[149, N]`; None where it is not one."""
    if levels > LEVELS:
        findings.file(
            "error", f"10 levels, {levels} are to be used", "set data.levels to 10 or less"
        )
        return None
    rows: list[np.ndarray] = []
    for number, line in enumerate(filter(bytes.strip, _lines(path)), 1):
        if number > ROWS:
            findings.file("error", f"more than {ROWS} rows", "give a file as it was published")
            return None
        row = _numbers(line)
        width = len(rows[0]) if rows else None
        if isinstance(row, str):
            findings.file("error", f"row {number}: {row}", "correct the cell")
        elif width is not None and len(row) != width:
            what = f"row {number}: {len(row)} columns, expected {width}"
            findings.file("error", what, "the file may be cut short; copy it again")
        else:
            rows.append(row)
    if findings.failed:
        return None
    if len(rows) != ROWS or not len(rows[0]):
        what = f"{len(rows)} rows of {len(rows[0]) if rows else 0} columns, expected {ROWS} rows"
        findings.file("error", what, "one row per feature, one column per time step")
        return None
    values = np.stack(rows)
    wrong = np.flatnonzero(~np.isfinite(values).all(axis=0))
    findings.rows("error", wrong + 1, "a value that is not finite", "correct or remove the column")
    return None if len(wrong) else values


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from file
    except OSError as error:
        raise DataError(f"{path}: not readable ({error.strerror}); give a text file") from error


def _numbers(line: bytes) -> np.ndarray | str:
    """Return the numbers of a line, or what is wrong with it."""
    cells = line.removeprefix(b"\xef\xbb\xbf").translate(_TO_LINES)
    try:
        table = csv.read_csv(
            io.BytesIO(cells),
            csv.ReadOptions(column_names=["value"], block_size=1 << 20),
            csv.ParseOptions(quote_char=False, delimiter="\x1f"),
            csv.ConvertOptions(
                column_types={"value": pa.float64()}, null_values=[], check_utf8=False
            ),
        )
        return table.column(0).to_numpy()
    except pa.ArrowInvalid:
        for number, cell in enumerate(line.split(), 1):
            try:
                float(cell)
            except ValueError:
                text = cell[:40].decode("utf-8", errors="replace")
                return f"column {number}: {text!r} is not a number"
        return "not numbers separated by blanks"


def _check(book: np.ndarray, findings: Findings) -> None:
    ask, bid = book[:, 0::4], book[:, 2::4]
    negative = np.flatnonzero((book < 0).any(axis=1))
    findings.rows("error", negative + 1, "a negative price or size", "correct the column")
    crossed = np.flatnonzero(ask[:, 0] < bid[:, 0])
    remedy = "check the source; mid and spread there mean little"
    findings.rows("warning", crossed + 1, "crossed book: best ask below best bid", remedy)
    locked = np.flatnonzero(ask[:, 0] == bid[:, 0])
    findings.rows("warning", locked + 1, "locked book: best ask equals best bid", remedy)


def _smallest_step(prices: np.ndarray) -> float:
    steps = np.diff(np.unique(np.round(prices, 8)))
    return float(np.round(steps.min(), 8)) if len(steps) else 0.01

"""From the path of a configuration to series, whatever the format."""

from __future__ import annotations

from pathlib import Path

from domains.finance.data.book import BookSeries
from domains.finance.data.columns import TABLES, read_table
from domains.finance.data.config import DataConfig
from domains.finance.data.diffs import is_diffs, read_diffs
from domains.finance.data.fi2010 import fi2010_files, is_fi2010, read_fi2010
from domains.finance.data.lobster import read_lobster
from domains.finance.data.lobster_names import lobster_name
from domains.finance.data.snapshots import is_snapshots, read_snapshots
from shared_runtime.domain import Problem
from shared_runtime.errors import DataError

_LOBSTER = "TICKER_YYYY-MM-DD_START_END_message_LEVEL.csv and ..._orderbook_LEVEL.csv"
_HALVES = ("message", "orderbook")


def read_books(config: DataConfig) -> tuple[list[BookSeries], list[Problem]]:
    """Read all that `config.path` holds, and everything that is wrong with it, in one pass.

    A file with an error gives no series.
    """
    path = config.path
    try:
        kind = format_of(path) if config.format == "auto" else config.format
        if kind == "lobster":
            _require(path)
            series, problems = read_lobster(path, config.levels, config.tick)
            what = "no message file of LOBSTER"
        elif kind == "fi2010":
            _require(path)
            files, problems = fi2010_files(path) if path.is_dir() else ([path], [])
            series = []
            for file in files:
                found, wrong = read_fi2010(file, config.levels, config.tick)
                series += found
                problems += wrong
            what = "no text file of FI-2010"
        else:
            series, problems = _tables(config, kind)
            what = "no CSV or Parquet file"
    except DataError as error:
        what, _, remedy = str(error).removeprefix(f"{path}: ").partition("; ")
        return [], [Problem("error", str(path), what, remedy)]
    if not series and not problems:
        problems = [Problem("error", str(path), what, "give the folder of the files")]
    return series, problems


def format_of(path: Path) -> str:
    """Return `lobster`, `fi2010` or `table`, from names.

    Raises:
        DataError: nothing there is one of them.
    """
    _require(path)
    if path.is_dir():
        names = [file for file in path.iterdir() if file.is_file()]
        if any(lobster_name(file) for file in names):
            return "lobster"
        if any(map(is_fi2010, path.rglob("*.txt"))):
            return "fi2010"
        if any(file.suffix.lower() in TABLES for file in names):
            return "table"
    elif lobster_name(path):
        return "lobster"
    elif path.suffix.lower() in TABLES:
        return "table"
    elif path.suffix.lower() == ".txt":
        return "fi2010"
    raise DataError(
        f"{path}: no order books; give LOBSTER pairs, FI-2010 text files, or CSV or Parquet tables"
    )


def items(folder: Path, pattern: str) -> list[Path]:
    """Return the files of a folder that are predicted one at a time, sorted.

    Message files stand for their pairs; order book halves are left out.
    """
    found = []
    for path in sorted(folder.glob(pattern)):
        name = lobster_name(path)
        other = name is not None and name.half == "orderbook"
        readable = path.suffix.lower() in (*TABLES, ".txt")
        if path.is_file() and readable and not other and not path.name.startswith("."):
            found.append(path)
    return found


def item_files(path: Path) -> list[Path]:
    """Return the file itself, or both halves of the pair that a message file stands for."""
    name = lobster_name(path)
    if name is None:
        return [path]
    halves = (path.with_name(f"{name.stem}_{half}_{name.levels}.csv") for half in _HALVES)
    return [half for half in halves if half.is_file()] or [path]


def _tables(config: DataConfig, kind: str) -> tuple[list[BookSeries], list[Problem]]:
    path = config.path
    _require(path)
    files = [path]
    if path.is_dir():
        files = [file for file in items(path, "*") if file.suffix.lower() in TABLES]
    series: list[BookSeries] = []
    problems: list[Problem] = []
    for file in files:
        try:
            table = read_table(file, config.columns)
            snapshots = kind == "snapshots" or (kind == "table" and is_snapshots(table))
            if not snapshots and kind == "table" and not is_diffs(table):
                names = ", ".join(table.data.column_names[:12])
                meant = any(half in file.name for half in ("message", "orderbook"))
                raise DataError(
                    f"{file}: neither ask_price_1, ask_size_1, bid_price_1, bid_size_1 nor "
                    f"side, price, size among {names}; name them with data.columns"
                    + (f", or name LOBSTER's files {_LOBSTER}" if meant else "")
                )
            read = read_snapshots if snapshots else read_diffs
            found, wrong = read(table, config.levels, config.tick)
            series += found
            problems += wrong
        except DataError as error:
            where, text = str(file), str(error).removeprefix(f"{file}: ")
            if text.startswith("line "):
                line, _, text = text.partition(": ")
                where = f"{file}: {line}"
            what, _, remedy = text.partition("; ")
            problems.append(Problem("error", where, what, remedy))
    return series, problems


def _require(path: Path) -> None:
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; give the path of order book data")

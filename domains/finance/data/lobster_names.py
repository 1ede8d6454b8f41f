"""Names of LOBSTER files, and which message file belongs to which order book file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from shared_runtime.domain import Problem

_FILE = re.compile(r"(?P<stem>.+)_(?P<half>message|orderbook)_(?P<levels>\d{1,4})\.csv")
_STEM = re.compile(r"(?P<ticker>.+?)(_(?P<day>\d{4}-\d\d-\d\d))?(_(?P<start>\d+)_(?P<end>\d+))?")


@dataclass(frozen=True)
class LobsterName:
    """Parts of `TICKER_YYYY-MM-DD_START_END_HALF_LEVEL.csv`; all but the last two optional."""

    ticker: str
    day: str
    """ISO date; empty where the name has none."""
    half: str
    """`message` or `orderbook`."""
    levels: int
    stem: str
    """All before the half."""


@dataclass(frozen=True)
class Pair:
    """The two files of one ticker and day."""

    message: Path
    orderbook: Path
    name: LobsterName


def lobster_name(path: Path) -> LobsterName | None:
    """Return the parts of a name; None where it is not one of LOBSTER's."""
    found = _FILE.fullmatch(path.name)
    if found is None:
        return None
    parts = _STEM.fullmatch(found["stem"])
    if parts is None:
        return None
    return LobsterName(
        parts["ticker"], parts["day"] or "", found["half"], int(found["levels"]), found["stem"]
    )


def message_files(folder: Path) -> list[Path]:
    """Return the message files of a folder, by name."""
    named = [(path, lobster_name(path)) for path in sorted(folder.iterdir()) if path.is_file()]
    return [path for path, name in named if name is not None and name.half == "message"]


def find_pairs(path: Path) -> tuple[list[Pair], list[Problem]]:
    """Return the pairs of a folder, or the one that a message or order book file belongs to.

    Files whose other half is not beside them, and days that are there twice, are errors.
    """
    folder = path if path.is_dir() else path.parent
    files: dict[tuple[str, int], dict[str, Path]] = {}
    names: dict[tuple[str, int], LobsterName] = {}
    for file in sorted(folder.iterdir()):
        name = lobster_name(file) if file.is_file() else None
        if name is not None:
            files.setdefault((name.stem, name.levels), {})[name.half] = file
            names[name.stem, name.levels] = name
    if path.is_file():
        chosen = lobster_name(path)
        key = None if chosen is None else (chosen.stem, chosen.levels)
        files = {key: files[key]} if key in files else {}
    pairs, problems = [], []
    seen: dict[str, Path] = {}
    for key, halves in files.items():
        if len(halves) < 2:
            problems.append(_lonely(next(iter(halves.values())), names[key]))
            continue
        if key[0] in seen:
            what = f"the same orders as {seen[key[0]].name}, with another number of levels"
            remedy = "keep one of the two in the folder, or give the path of one"
            problems.append(Problem("error", str(halves["message"]), what, remedy))
            continue
        seen[key[0]] = halves["message"]
        pairs.append(Pair(halves["message"], halves["orderbook"], names[key]))
    return pairs, problems


def _lonely(path: Path, name: LobsterName) -> Problem:
    other = "orderbook" if f"_message_{name.levels}" in path.name else "message"
    wanted = f"{name.stem}_{other}_{name.levels}.csv"
    remedy = "put it there, or rename the half that has another name"
    if other == "orderbook":
        remedy += ", or build it with scripts/orderbook/reconstruct.py"
    return Problem("error", str(path), f"no {wanted} beside it", remedy)

"""Files that are wrong in every way a file can be, and what must hold when they are read."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from domains.finance.data.config import DataConfig
from domains.finance.data.reading import read_books
from tests.domains.finance.data.books import write_flow
from tests.domains.finance.data.fi2010_files import walk, write_fi2010
from tests.domains.finance.data.test_tables import diffs, snapshots

CELLS = [
    b"", b" ", b"nan", b"NaN", b"inf", b"-inf", b"-1", b"0", b"1e400", b"1e-400", b"1e5", b"-0.0",
    b"9" * 19,
    b"9" * 400, b"-" + b"9" * 25, b"9999999999", b"-9999999999", b"1_000", b"0x10", b"+5",
    b"'1'", b'"', b'"1"', b"\xff\xfe", b"\xe9", b"\x00", b"1;2", b"1,2", b"1\t2", b"true", b"null",
    b"2024-01-01", b"24:00", b"9223372036854775807", b"9223372036854775808",
    b"1.0", b".", b"-", b"1.",
    b"34200.1234567891234567891", b"\xc2\xa0", "１２".encode(),
]  # fmt: skip


def cell(content: bytes, rng: np.random.Generator, separator: bytes) -> bytes:
    lines = content.split(b"\n")
    row = int(rng.integers(len(lines)))
    cells = lines[row].split(separator)
    cells[int(rng.integers(len(cells)))] = CELLS[int(rng.integers(len(CELLS)))]
    lines[row] = separator.join(cells)
    return b"\n".join(lines)


def byte(content: bytes, rng: np.random.Generator, separator: bytes) -> bytes:
    found = bytearray(content)
    for _ in range(int(rng.integers(1, 6))):
        if found:
            found[int(rng.integers(len(found)))] = int(rng.integers(256))
    return bytes(found)


def cut(content: bytes, rng: np.random.Generator, separator: bytes) -> bytes:
    return content[: int(rng.integers(len(content) + 1))]


def line(content: bytes, rng: np.random.Generator, separator: bytes) -> bytes:
    lines = content.split(b"\n")
    place, kind = int(rng.integers(len(lines))), int(rng.integers(5))
    if kind == 0:
        del lines[place]
    elif kind == 1:
        lines.insert(place, lines[int(rng.integers(len(lines)))])
    elif kind == 2:
        lines.insert(place, CELLS[int(rng.integers(len(CELLS)))])
    elif kind == 3:
        other = int(rng.integers(len(lines)))
        lines[place], lines[other] = lines[other], lines[place]
    else:
        lines[place] = lines[place] + separator + b"1"
    return b"\n".join(lines)


def insert(content: bytes, rng: np.random.Generator, separator: bytes) -> bytes:
    place = int(rng.integers(len(content) + 1))
    new = bytes(rng.integers(0, 256, int(rng.integers(1, 9))).astype(np.uint8))
    return content[:place] + new + content[place:]


def ends(content: bytes, rng: np.random.Generator, separator: bytes) -> bytes:
    new = [b"\r\n", b"\r", b"\n\n", b"\n\r\n"][int(rng.integers(4))]
    return content.replace(b"\n", new)


def mark(content: bytes, rng: np.random.Generator, separator: bytes) -> bytes:
    return [b"\xef\xbb\xbf", b"\xff\xfe", b"\x1f\x8b", b"PAR1"][int(rng.integers(4))] + content


def noise(content: bytes, rng: np.random.Generator, separator: bytes) -> bytes:
    return bytes(rng.integers(0, 256, int(rng.integers(0, 200))).astype(np.uint8))


def empty(content: bytes, rng: np.random.Generator, separator: bytes) -> bytes:
    return b""


def separators(content: bytes, rng: np.random.Generator, separator: bytes) -> bytes:
    return content.replace(separator, [b";", b"\t", b" ", b", "][int(rng.integers(4))])


WAYS: tuple[Callable[[bytes, np.random.Generator, bytes], bytes], ...] = (
    cell, cell, cell, byte, byte, cut, cut, line, line, insert, ends, mark, noise, empty, separators
)  # fmt: skip
KINDS = ("message", "orderbook", "fi2010", "snapshots", "diffs", "parquet")


class Originals:
    """One good file of each kind, kept as bytes."""

    def __init__(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            message, book = write_flow(folder, 12, levels=2)
            self.pair = (message.name, book.name)
            text = folder / "Train_Dst_NoAuction_DecPre_CF_7.txt"
            write_fi2010(text, [walk(4, 26.0, 0), walk(3, 30.0, 1)], "DecPre")
            snapshots(8).to_csv(folder / "snapshots.csv", index=False)
            frame = diffs()
            frame["sequence"] = [1, 1, 1, 1, 2, 3, 3, 4, 5, 6]
            frame["is_snapshot"] = [True] * 4 + [False] * 6
            frame.to_csv(folder / "diffs.csv", index=False)
            snapshots(8).to_parquet(folder / "table.parquet", index=False)
            self.content = {
                "message": message.read_bytes(),
                "orderbook": book.read_bytes(),
                "fi2010": text.read_bytes(),
                "snapshots": (folder / "snapshots.csv").read_bytes(),
                "diffs": (folder / "diffs.csv").read_bytes(),
                "parquet": (folder / "table.parquet").read_bytes(),
            }
        self.names = {
            "message": self.pair[0],
            "orderbook": self.pair[1],
            "fi2010": text.name,
            "snapshots": "snapshots.csv",
            "diffs": "diffs.csv",
            "parquet": "table.parquet",
        }


def damaged(kind: str, originals: Originals, seed: int) -> bytes:
    """Return a file of one kind after one to three kinds of damage."""
    rng = np.random.default_rng(seed)
    content = originals.content[kind]
    separator = b" " if kind == "fi2010" else b","
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        content = WAYS[int(rng.integers(len(WAYS)))](content, rng, separator)
    return content


def read_damaged(kind: str, content: bytes, originals: Originals, folder: Path) -> str:
    """Read one file; return `read`, `read with warnings` or `refused`.

    Raises whatever the reader raises, warnings included, and AssertionError where rows are lost
    without a word.
    """
    path = folder / originals.names[kind]
    path.write_bytes(content)
    if kind in ("message", "orderbook"):
        other = "orderbook" if kind == "message" else "message"
        (folder / originals.names[other]).write_bytes(originals.content[other])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        series, problems = read_books(DataConfig(path=path, levels=2))
    for problem in problems:
        assert "\n" not in str(problem), problem
        assert problem.what and problem.remedy and str(path.parent) in problem.where
    if any(problem.severity == "error" for problem in problems):
        return "refused"
    rows = sum(len(one) for one in series)
    for one in series:
        assert np.isfinite(one.time).all()
        assert not np.isinf(one.book).any() and not np.isnan(one.book[:, 1::2]).any()
        assert (np.diff(one.time) >= 0).all()
    expected = held(kind, content)
    left = problems and any("left out" in p.remedy for p in problems)
    if kind == "diffs":
        assert 0 < rows <= expected
    else:
        assert rows == expected or left, (rows, expected)
    return "read with warnings" if problems else "read"


def held(kind: str, content: bytes) -> int:
    """Count the rows of a file in the simplest way there is."""
    while content.startswith(b"\xef\xbb\xbf"):
        content = content[3:]
    lines = content.splitlines()
    if kind == "fi2010":
        return len(next(one for one in content.split(b"\n") if one.strip()).split())
    if kind == "parquet":
        return 8
    return len(lines) - (kind in ("snapshots", "diffs"))

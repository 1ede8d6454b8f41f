"""What the command says of files that are wrong: one line each, exit code 3, nothing written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.domains.finance.small_runs import heed

Lines = list[str]


def _cell(line: str, place: int, text: str) -> str:
    cells = line.split(",")
    cells[place] = text
    return ",".join(cells)


MESSAGES: dict[str, tuple[Callable[[Lines], Lines], str]] = {
    "truncated": (lambda x: [*x[:-1], x[-1][:9]], "row 2000: 1 columns, expected 6"),
    "column more": (lambda x: [f"{line},1" for line in x], "row 1: 7 columns, expected 6"),
    "text": (lambda x: [*x[:4], _cell(x[4], 3, "abc"), *x[5:]], "row 5: column 4: 'abc' is not"),
    "row less": (lambda x: x[:-1], "1999 rows"),
    "time back": (lambda x: [*x[:50], x[10], *x[51:]], "row 51: time going back by"),
    "empty": (lambda x: [], "no rows; give a file with data"),
    "header": (lambda x: ["time,type,id,size,price,direction", *x], "no header and only numbers"),
}
TABLES: dict[str, tuple[Callable[[Lines], Lines], str]] = {
    "ragged": (lambda x: [*x[:500], x[500][:30], *x[501:]], "line 501: "),
    "text": (lambda x: [*x[:600], _cell(x[600], 3, "x"), *x[601:]], "line 601: column 'bid_pric"),
    "negative": (lambda x: [*x[:600], _cell(x[600], 2, "-5"), *x[601:]], "line 601: a negative"),
    "half a level": (lambda x: [*x[:9], _cell(x[9], 3, ""), *x[10:]], "line 10: a price without"),
    "header alone": (lambda x: x[:1], "no rows below the header"),
    "one row": (lambda x: x[:2], "the train part needs an unbroken stretch of 42 rows"),
    "other columns": (lambda x: ["a,b", "1,2"], "name them with data.columns"),
    "nothing": (lambda x: [], "the first line is empty"),
}


@pytest.mark.parametrize("kind", MESSAGES)
def test_lobster(lobster: Path, tmp_path: Path, kind: str) -> None:
    change, said = MESSAGES[kind]
    folder = tmp_path / "data"
    folder.mkdir()
    for path in lobster.iterdir():
        lines = path.read_text().splitlines()
        lines = change(lines) if "message" in path.name else lines
        (folder / path.name).write_text("".join(f"{line}\n" for line in lines))
    out = tmp_path / "run"
    printed = heed("check", "--data", folder, code=3)
    assert said in printed
    printed = heed("train", "--data", folder, "--out", out, code=3)
    assert said in printed and not out.exists()


@pytest.mark.parametrize("kind", TABLES)
def test_snapshots(snapshots: Path, tmp_path: Path, kind: str) -> None:
    change, said = TABLES[kind]
    path = tmp_path / "table.csv"
    path.write_text("".join(f"{line}\n" for line in change(snapshots.read_text().splitlines())))
    printed = heed("check", "--data", path, code=3)
    errors = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, "one thing is wrong"
    assert errors[0].startswith(f"error: {path}: ") and said in errors[0]


@pytest.mark.parametrize("half", ["message", "orderbook"])
def test_a_missing_half(lobster: Path, tmp_path: Path, half: str) -> None:
    (path,) = lobster.glob(f"*_{half}_*")
    (tmp_path / path.name).write_bytes(path.read_bytes())
    assert "beside it; put it there" in heed("check", "--data", tmp_path, code=3)


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["data.levels=20"], "10 levels, 20 are to be used; set data.levels to 10 or less"),
        (["data.lookback=100000"], "the train part needs an unbroken stretch of 100010 rows"),
        (["data.split=day"], "data.split=day needs at least 3 days, there is 1"),
        (["data.features=given"], "data.features=given is for FI-2010"),
        (["data.label=given"], "data.label=given is for FI-2010"),
        (["data.format=fi2010"], "no text file of FI-2010"),
        (["data.sample=time", "data.every=100000"], "data.lookback, data.horizon or data.every"),
    ],
)
def test_settings_that_do_not_fit(lobster: Path, sets: list[str], said: str) -> None:
    pairs = [part for pair in sets for part in ("--set", pair)]
    assert said in heed("check", "--data", lobster, *pairs, code=3)


def test_volume_without_trades(snapshots: Path) -> None:
    sets = ["--set", "data.sample=volume"]
    printed = heed("check", "--data", snapshots, *sets, code=3)
    assert printed.count("needs order messages") == 1
    assert "; use data.sample=event, time or mid" in printed


def test_a_horizon_that_fi2010_has_not(sample: Path) -> None:
    sets = ["--set", "data.label=given", "--set", "data.features=given", "--horizon", "17"]
    printed = heed("check", "--data", sample / "fi2010", *sets, code=3)
    assert "labels for horizons 10, 20, 30, 50, 100 came with this file, not for 17" in printed


def test_columns_of_other_names(snapshots: Path, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    header, _, rest = snapshots.read_text().partition("\n")
    header = header.replace('"timestamp"', "when").replace('"bid_price_1"', "b1")
    assert "when" in header and "b1" in header
    path.write_text(f"{header}\n{rest}")
    assert "name them with data.columns" in heed("check", "--data", path, code=3)
    mapped = ["--set", "data.columns=[timestamp=when,bid_price_1=b1]"]
    assert "0 errors" in heed("check", "--data", path, *mapped)
    wrong = ["--set", "data.columns=[timestamp=then]"]
    printed = heed("check", "--data", path, *wrong, code=3)
    assert "no column 'then', which data.columns names; name one of when, ask_price_1" in printed


def test_files_that_should_have_lobster_names(lobster: Path, tmp_path: Path) -> None:
    (message,) = lobster.glob("*_message_*")
    (tmp_path / "AAPL_message.csv").write_bytes(message.read_bytes())
    printed = heed("check", "--data", tmp_path, code=3)
    assert "TICKER_YYYY-MM-DD_START_END_message_LEVEL.csv" in printed

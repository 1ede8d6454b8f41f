from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from domains.finance.data.columns import read_table
from domains.finance.data.config import DataConfig
from domains.finance.data.reading import read_books
from shared_runtime.errors import DataError

START = 1_700_000_000
NS = 10**9


def snapshots(rows: int = 20, levels: int = 2) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    mid = 40_000 + np.cumsum(rng.integers(-2, 3, rows))
    table = {"timestamp": START * NS + np.arange(rows) * NS}
    for level in range(1, levels + 1):
        table[f"ask_price_{level}"] = mid + 0.5 * level
        table[f"ask_size_{level}"] = rng.uniform(0.1, 3, rows).round(4)
        table[f"bid_price_{level}"] = mid - 0.5 * level
        table[f"bid_size_{level}"] = rng.uniform(0.1, 3, rows).round(4)
    return pd.DataFrame(table)


def diffs() -> pd.DataFrame:
    rows = [
        (0, "ask", 101.0, 1.0),
        (0, "ask", 102.0, 2.0),
        (0, "bid", 99.0, 1.5),
        (0, "bid", 98.0, 2.5),
        (1, "ask", 100.5, 0.5),
        (2, "bid", 99.0, 0.0),
        (2, "bid", 97.0, 4.0),
        (3, "ask", 100.5, 0.7),
        (4, "ask", 103.0, 9.0),
        (5, "ask", 555.0, 0.0),
    ]
    frame = pd.DataFrame(rows, columns=["timestamp", "side", "price", "size"])
    frame["timestamp"] += START
    return frame


def read(frame: pd.DataFrame, folder: Path, suffix: str = ".csv", **options: object):
    path = folder / f"BTCUSDT{suffix}"
    if suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path, index=False)
    return read_books(DataConfig(path=path, **{"levels": 2, **options}))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_snapshots(tmp_path: Path, suffix: str) -> None:
    frame = snapshots()
    (one,), problems = read(frame, tmp_path, suffix)
    assert not problems
    assert (one.instrument, one.day, one.tick, one.events) == ("BTCUSDT", "", 0.5, None)
    assert (one.time == frame["timestamp"]).all()
    np.testing.assert_array_equal(one.book, frame.iloc[:, 1:].to_numpy())
    (narrow,), _ = read(frame, tmp_path, suffix, levels=1, tick=0.1)
    assert narrow.levels == 1 and narrow.tick == 0.1


def test_columns_under_other_names(tmp_path: Path) -> None:
    frame = snapshots(levels=1).rename(
        columns={"timestamp": "E", "ask_price_1": "a", "bid_price_1": "b", "ask_size_1": "A"}
    )
    names = ("timestamp=E", "ask_price_1=a", "bid_price_1=b", "ask_size_1=A")
    (one,), problems = read(frame, tmp_path, levels=1, columns=names)
    assert not problems and (one.book[:, 0] == frame["a"]).all()
    _, problems = read(frame, tmp_path, levels=1, columns=("timestamp=x",))
    assert "no column 'x', which data.columns names" in problems[0].what


TIMES: dict[str, Callable[[int], object]] = {
    "s": lambda n: START + n,
    "ms": lambda n: (START + n) * 1000 + 7,
    "us": lambda n: (START + n) * 10**6 + 7,
    "ns": lambda n: (START + n) * NS + 7,
    "decimal seconds": lambda n: f"{START + n}.123456789",
    "decimal milliseconds": lambda n: f"{START + n}123.456789",
    "iso": lambda n: f"2023-11-14T22:13:{20 + n}.123456789",
    "iso with a blank": lambda n: f"2023-11-14 22:13:{20 + n}",
    "utc": lambda n: f"2023-11-14T22:13:{20 + n}Z",
    "zone": lambda n: f"2023-11-15T00:13:{20 + n}+02:00",
}
RESTS = {"ms": 7_000_000, "us": 7_000, "ns": 7} | dict.fromkeys(
    ("decimal seconds", "decimal milliseconds", "iso"), 123_456_789
)


@pytest.mark.parametrize("kind", TIMES)
def test_times(tmp_path: Path, kind: str) -> None:
    frame = snapshots(5)
    frame["timestamp"] = [TIMES[kind](n) for n in range(5)]
    (one,), problems = read(frame, tmp_path)
    assert not problems
    assert one.time.tolist() == [(START + n) * NS + RESTS.get(kind, 0) for n in range(5)]


def test_times_of_parquet(tmp_path: Path) -> None:
    frame = snapshots(5)
    expected = frame["timestamp"].tolist()
    for times in (pd.to_datetime(frame["timestamp"]), frame["timestamp"] / 1e9):
        frame["timestamp"] = times
        (one,), problems = read(frame, tmp_path, ".parquet")
        assert not problems and one.time.tolist() == expected


def change(row: int, column: str, value: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def apply(frame: pd.DataFrame) -> pd.DataFrame:
        frame = frame.astype(object)
        frame.loc[row, column] = value
        return frame

    return apply


@pytest.mark.parametrize(
    ("wrong", "where", "what"),
    [
        (change(6, "timestamp", START * NS), "line 8", "time going back by 5 s"),
        (change(6, "timestamp", "soon"), "line 8", "column 'timestamp': 'soon' is no time"),
        (change(6, "ask_size_1", -1), "line 8", "a negative price or size"),
        (change(6, "ask_size_2", "x"), "line 8", "column 'ask_size_2': 'x' is no number"),
        (change(6, "ask_size_2", "inf"), "line 8", "column 'ask_size_2': 'inf' is no number"),
        (change(6, "bid_price_1", 50_000), "line 8", "crossed book: best ask below best bid"),
        (change(6, "ask_price_2", 10_000), "line 8", "levels not from best to worst"),
        (change(6, "ask_price_1", ""), "line 8", "a price without a size"),
        (lambda frame: frame.drop(columns="timestamp"), "", "no time"),
        (lambda frame: frame.iloc[:0], "", "no rows"),
        (lambda frame: frame.drop(columns="bid_size_2"), "", "1 levels, 2 are to be used"),
        (lambda frame: frame[["timestamp"]], "", "neither ask_price_1"),
    ],
)
def test_what_is_wrong_with_snapshots(
    tmp_path: Path, wrong: Callable[[pd.DataFrame], pd.DataFrame], where: str, what: str
) -> None:
    series, problems = read(wrong(snapshots()), tmp_path)
    assert not series
    errors = [p for p in problems if p.severity == "error"]
    assert any(what in p.what and p.where.endswith(where) for p in errors), problems
    assert all(p.remedy for p in errors)


def test_empty_levels_gaps_and_copies_of_snapshots(tmp_path: Path) -> None:
    frame = snapshots()
    frame.loc[3, ["ask_price_2", "ask_size_2"]] = 0
    frame.loc[4, ["bid_price_2", "bid_size_2"]] = np.nan
    frame.loc[10:, "timestamp"] += 3600 * NS
    frame = pd.concat([frame.iloc[:1], frame])
    series, problems = read(frame, tmp_path)
    assert [len(one) for one in series] == [11, 10]
    assert [one.first_row for one in series] == [1, 12]
    assert np.isnan(series[0].book[4, 4]) and series[0].book[4, 5] == 0
    assert np.isnan(series[0].book[5, 6]) and series[0].book[5, 7] == 0
    assert {(Path(p.where).name, p.what) for p in problems} == {
        ("BTCUSDT.csv: line 3", "a repeated row"),
        ("BTCUSDT.csv: line 13", "a gap of 3601 s before the row"),
    }


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_diffs(tmp_path: Path, suffix: str) -> None:
    (one,), problems = read(diffs(), tmp_path, suffix)
    assert not problems
    np.testing.assert_array_equal(
        one.book,
        [
            [101, 1, 99, 1.5, 102, 2, 98, 2.5],
            [100.5, 0.5, 99, 1.5, 101, 1, 98, 2.5],
            [100.5, 0.5, 98, 2.5, 101, 1, 97, 4],
            [100.5, 0.7, 98, 2.5, 101, 1, 97, 4],
        ],
    )
    assert ((one.time - START * NS) // NS).tolist() == [0, 1, 2, 3]
    assert one.tick == 0.5


@pytest.mark.parametrize("words", [("bid", "ask"), ("BUY", "Sell"), ("b", "a"), (1, -1)])
def test_words_for_sides(tmp_path: Path, words: tuple[object, object]) -> None:
    frame = diffs()
    frame["side"] = frame["side"].map(dict(zip(("bid", "ask"), words, strict=True)))
    (one,), problems = read(frame, tmp_path)
    assert not problems and len(one) == 4


def test_lost_updates_leave_rows_out_until_the_next_snapshot(tmp_path: Path) -> None:
    frame = diffs()
    frame["sequence"] = [1, 1, 1, 1, 2, 3, 3, 5, 6, 7]
    frame["is_snapshot"] = [True] * 4 + [False] * 6
    again = pd.DataFrame(
        [
            (9, "ask", 101.0, 1.0, 9, True),
            (9, "bid", 99.0, 1.0, 9, True),
            (10, "bid", 99.0, 2.0, 10, False),
        ],
        columns=frame.columns,
    )
    again["timestamp"] += START
    series, problems = read(pd.concat([frame, again]), tmp_path)
    assert [len(one) for one in series] == [3, 2]
    assert [p.severity for p in problems] == ["warning", "warning"]
    assert problems[0].what == "1 ids are missing before the row"
    assert problems[0].where.endswith("line 9")
    assert problems[1].what == "3 rows without a known book from here on"
    assert np.isnan(series[1].book[0, 4])


def test_first_ids_of_updates(tmp_path: Path) -> None:
    frame = diffs()
    frame["sequence"] = [10, 10, 10, 10, 20, 30, 30, 40, 50, 60]
    frame["first_sequence"] = [1, 1, 1, 1, 11, 21, 21, 31, 41, 51]
    series, problems = read(frame, tmp_path)
    assert not problems and len(series) == 1


@pytest.mark.parametrize(
    ("wrong", "where", "what"),
    [
        (change(6, "size", -1), "line 8", "a negative size"),
        (change(6, "price", 0), "line 8", "price not above 0"),
        (change(6, "price", ""), "line 8", "column 'price': a missing value"),
        (change(6, "side", "up"), "line 8", "unknown side 'up'"),
        (change(6, "timestamp", START), "line 8", "time going back by 2 s"),
        (change(4, "price", 90), "line 6", "crossed book"),
        (lambda frame: frame[frame["side"] == "bid"], "", "no row has both a bid and an ask"),
        (lambda frame: frame.drop(columns="timestamp"), "", "no column 'timestamp'"),
        (lambda frame: frame.assign(sequence=range(10, 0, -1)), "line 3", "sequence going back"),
        (lambda frame: frame.assign(is_snapshot="x"), "line 2", "is_snapshot: neither"),
    ],
)
def test_what_is_wrong_with_diffs(
    tmp_path: Path, wrong: Callable[[pd.DataFrame], pd.DataFrame], where: str, what: str
) -> None:
    series, problems = read(wrong(diffs()), tmp_path)
    assert not series
    assert any(what in p.what and p.where.endswith(where) for p in problems), problems


def test_copies_and_gaps_of_diffs_are_told(tmp_path: Path) -> None:
    frame = diffs()
    frame.loc[7:, "timestamp"] += 4000
    frame.loc[3, "price"] = 99.0
    series, problems = read(frame, tmp_path)
    assert [len(one) for one in series] == [3, 1]
    assert {p.what for p in problems} == {
        "the same price twice in one update",
        "a gap of 4001 s before the row",
    }


def test_updates_that_change_nothing_shown_are_no_gap(tmp_path: Path) -> None:
    quiet = pd.DataFrame({"timestamp": START + 10 + 30 * np.arange(9), "side": "ask"})
    quiet["price"], quiet["size"] = 900.0, np.arange(9) + 1.0
    late = pd.DataFrame([(START + 300, "ask", 101.0, 5.0)], columns=diffs().columns)
    (one,), problems = read(pd.concat([diffs(), quiet, late]), tmp_path)
    assert not problems and len(one) == 5


def test_diffs_equal_snapshots_of_the_same_book(tmp_path: Path) -> None:
    """A random stream of changes, against a dictionary that is sorted at every update."""
    rng = np.random.default_rng(3)
    book: dict[tuple[str, float], float] = {}
    rows, states = [], []
    for time in range(400):
        for _ in range(3):
            side = str(rng.choice(["bid", "ask"]))
            price = 100.0 + (1 if side == "ask" else -1) * int(rng.integers(1, 15)) * 0.5
            size = float(rng.integers(0, 3))
            rows.append((START + time, side, price, size))
            book[side, price] = size
        asks = sorted((p, s) for (d, p), s in book.items() if d == "ask" and s)[:2]
        bids = sorted(((p, s) for (d, p), s in book.items() if d == "bid" and s), reverse=True)[:2]
        if len(asks) == len(bids) == 2:
            states.append([x for a, b in zip(asks, bids, strict=True) for x in (*a, *b)])
    frame = pd.DataFrame(rows, columns=["timestamp", "side", "price", "size"])
    series, _ = read(frame, tmp_path)
    found = np.concatenate([one.book for one in series])
    found = found[~np.isnan(found).any(axis=1)]
    different = [s for n, s in enumerate(states) if not n or s != states[n - 1]]
    kept = [r for n, r in enumerate(found.tolist()) if not n or r != found[n - 1].tolist()]
    assert kept == different


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "first line is empty"),
        (b"\n\n", "first line is empty"),
        (b"a,a\n1,2\n", "column 'a' appears twice"),
        (b"timestamp,side,price,size\n1,2\n", "line 2: 2 columns, expected 4"),
        (b"timestamp,side,price,size\n1,\xff,3,4\n", "not a readable table"),
        (b"timestamp,,price\n1,2,3\n", "does not name every column"),
    ],
)
def test_files_that_are_no_tables(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=what):
        read_table(path, ())
    (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(DataError, match="not a readable table"):
        read_table(tmp_path / "x.parquet", ())

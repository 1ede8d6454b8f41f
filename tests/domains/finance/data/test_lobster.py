from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from domains.finance.data.lobster import read_lobster
from domains.finance.data.lobster_names import find_pairs, lobster_name
from tests.domains.finance.data.books import order_flow, write_flow

EMPTY = 9_999_999_999


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def put(path: Path, rows: list[str]) -> None:
    path.write_text("".join(f"{row}\n" for row in rows))


def test_a_pair_is_read_exactly(tmp_path: Path) -> None:
    messages, books = order_flow(80, levels=3)
    write_flow(tmp_path, 80)
    (one,), problems = read_lobster(tmp_path, levels=3)
    assert not problems
    assert (one.instrument, one.day, one.levels, one.tick) == ("TEST", "2024-03-01", 3, 0.01)
    assert (one.time == messages.time).all()
    price = one.book[:, 0::2]
    empty = np.abs(books[:, 0::2]) == EMPTY
    assert empty.any()
    assert (np.isnan(price) == empty).all()
    assert (price[~empty] == books[:, 0::2][~empty] / 10_000).all()
    assert (one.book[:, 1::2] == books[:, 1::2]).all()
    assert one.events is not None
    assert (one.events.type == messages.type).all()
    assert (one.events.price == messages.price / 10_000).all()
    assert (one.events.order_id == messages.order_id).all()


def test_fewer_levels_are_cut_and_more_refused(tmp_path: Path) -> None:
    _, books = order_flow(60)
    message, _ = write_flow(tmp_path)
    (one,), _ = read_lobster(message, levels=2)
    assert one.levels == 2
    assert (one.book[:, 1::2] == books[:, 1:8:2]).all()
    series, problems = read_lobster(tmp_path, levels=4)
    assert not series
    assert "3 levels, 4 are to be used" in problems[0].what
    assert problems[0].remedy == "set data.levels to 3 or less"


def test_several_days_and_tickers_come_in_order(tmp_path: Path) -> None:
    for day in ("2024-03-04", "2024-03-01"):
        write_flow(tmp_path, 30, day=day)
    for half in ("message", "orderbook"):
        source = tmp_path / f"TEST_2024-03-01_34200000_57600000_{half}_3.csv"
        (tmp_path / f"AAA_{half}_3.csv").write_bytes(source.read_bytes())
    series, problems = read_lobster(tmp_path, levels=3)
    assert not problems
    assert [(s.instrument, s.day) for s in series] == [
        ("AAA", ""),
        ("TEST", "2024-03-01"),
        ("TEST", "2024-03-04"),
    ]
    (one,), _ = read_lobster(tmp_path / "AAA_orderbook_3.csv", levels=3)
    assert one.instrument == "AAA"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("AAPL_2012-06-21_34200000_57600000_message_10.csv", ("AAPL", "2012-06-21", "message", 10)),
        ("BRK_B_2012-06-21_1_2_orderbook_50.csv", ("BRK_B", "2012-06-21", "orderbook", 50)),
        ("AAPL_message_10.csv", ("AAPL", "", "message", 10)),
        ("A_2012-06-21_message_1.csv", ("A", "2012-06-21", "message", 1)),
        ("AAPL_message.csv", None),
        ("message_10.csv", None),
        ("AAPL_trades_10.csv", None),
    ],
)
def test_names(name: str, expected: tuple[str, str, str, int] | None) -> None:
    found = lobster_name(Path(name))
    assert (found and (found.ticker, found.day, found.half, found.levels)) == expected


def test_halves_without_the_other_and_repeated_days_are_errors(tmp_path: Path) -> None:
    message, book = write_flow(tmp_path)
    (tmp_path / "B_2024-03-01_message_5.csv").touch()
    (tmp_path / "C_orderbook_1.csv").touch()
    for half in (message, book):
        half.with_name(half.name.replace("_3.csv", "_5.csv")).touch()
    pairs, problems = find_pairs(tmp_path)
    assert [pair.message for pair in pairs] == [message]
    assert [p.what for p in problems] == [
        "no B_2024-03-01_orderbook_5.csv beside it",
        "no C_message_1.csv beside it",
        f"the same orders as {message.name}, with another number of levels",
    ]


def test_times_are_exact_to_the_nanosecond(tmp_path: Path) -> None:
    message, _ = write_flow(tmp_path, 5)
    rows = lines(message)
    times = ["34200", "34200.1", "34200.200000001", "34201.999999999", "57599.5"]
    put(message, [t + row[row.index(",") :] for t, row in zip(times, rows, strict=True)])
    (one,), problems = read_lobster(tmp_path, levels=3)
    assert one.time.tolist() == [
        34_200_000_000_000,
        34_200_100_000_000,
        34_200_200_000_001,
        34_201_999_999_999,
        57_599_500_000_000,
    ]
    assert not problems


def test_more_decimals_are_rounded_with_a_warning(tmp_path: Path) -> None:
    message, _ = write_flow(tmp_path, 2)
    rows = [row[row.index(",") :] for row in lines(message)]
    put(message, [f"34200.189607670003{rows[0]}", f"34200.1896076709999999{rows[1]}"])
    (one,), problems = read_lobster(tmp_path, levels=3)
    assert one.time.tolist() == [34_200_189_607_670, 34_200_189_607_671]
    assert [p.severity for p in problems] == ["warning"]


def test_halts_split_and_their_rows_are_left_out(tmp_path: Path) -> None:
    message, book = write_flow(tmp_path, 40)
    rows, books = lines(message), lines(book)
    halts = {10: -1, 14: 0, 18: 1, 30: -1, 31: 1}
    for row, price in halts.items():
        rows[row] = f"{rows[row].split(',')[0]},7,0,0,{price},-1"
    put(message, rows)
    series, problems = read_lobster(tmp_path, levels=3)
    assert [(one.first_row, len(one)) for one in series] == [(1, 10), (20, 11), (33, 8)]
    left = [p for p in problems if "halted" in p.what]
    assert [p.where.rsplit(" ", 1)[1] for p in left] == ["12", "16"]
    assert "3 messages while trading is halted, up to row 14" in left[0].what
    assert {p.severity for p in left} == {"warning"}
    assert len(books) == 40


def test_hidden_executions_and_crosses_stay(tmp_path: Path) -> None:
    write_flow(tmp_path, 80)
    (one,), _ = read_lobster(tmp_path, levels=3)
    assert one.events is not None and {5, 6} <= set(one.events.type.tolist())


def cell(row: int, column: int, value: object) -> Callable[[list[str]], list[str]]:
    def change(rows: list[str]) -> list[str]:
        cells = rows[row].split(",")
        cells[column] = str(value)
        return [*rows[:row], ",".join(cells), *rows[row + 1 :]]

    return change


WRONG = [
    ("message", cell(6, 1, 9), "row 7: unknown event type: 9"),
    ("message", cell(6, 5, 0), "row 7: unknown direction: 0"),
    ("message", cell(6, 3, 0), "row 7: size not above 0: 0"),
    ("message", cell(6, 3, -4), "row 7: size not above 0: -4"),
    ("message", cell(6, 4, 0), "row 7: price not above 0: 0"),
    ("message", cell(6, 4, EMPTY), "row 7: size or price beyond"),
    ("message", cell(6, 0, 34000), "row 7: time going back by"),
    ("message", cell(6, 0, 99999), "row 7: time outside the day"),
    ("message", cell(6, 0, "09:30"), "row 7: column 1: '09:30' is not a number"),
    ("message", cell(6, 2, "1.5"), "row 7: column 3: '1.5' is not a number"),
    ("message", cell(6, 2, ""), "row 7: column 3: '' is not a number"),
    ("message", cell(6, 2, "12,13"), "row 7: 7 columns, expected 6"),
    ("message", lambda rows: [*rows[:6], *rows[7:]], "59 rows, TEST"),
    ("message", lambda rows: [*rows[:6], "", *rows[7:]], "row 7: 1 columns, expected 6"),
    ("message", lambda rows: ["time,type,id,size,price,dir", *rows], "row 1: column 1: 'time'"),
    ("message", lambda rows: [], "no rows"),
    ("message", cell(6, 1, 2**70), "row 7: column 2"),
    ("orderbook", cell(6, 0, "nan"), "row 7: column 1: 'nan' is not a number"),
    ("orderbook", lambda rows: [*rows[:-1], rows[-1][:-8]], "row 60"),
    ("orderbook", lambda rows: rows[:-1], "60 rows, TEST"),
    ("orderbook", cell(40, 1, 0), "row 41: size not above 0 at an occupied level"),
    ("orderbook", cell(40, 1, -3), "row 41: size not above 0 at an occupied level"),
    ("orderbook", cell(40, 0, 100), "row 41: crossed book"),
    ("orderbook", cell(40, 4, 1000), "row 41: levels not from best to worst"),
    ("orderbook", cell(40, 8, EMPTY + 1), "row 41: price not above 0"),
    ("orderbook", lambda rows: [row[: row.rindex(",")] for row in rows], "11 columns"),
    ("orderbook", lambda rows: [",".join(row.split(",")[:8]) for row in rows], "8 columns, its"),
]


@pytest.mark.parametrize(("half", "change", "expected"), WRONG)
def test_what_is_wrong_is_said_with_its_row(
    tmp_path: Path, half: str, change: Callable[[list[str]], list[str]], expected: str
) -> None:
    files = dict(zip(("message", "orderbook"), write_flow(tmp_path), strict=True))
    put(files[half], change(lines(files[half])))
    series, problems = read_lobster(tmp_path, levels=3)
    assert not series
    errors = [p for p in problems if p.severity == "error"]
    assert expected in "\n".join(f"{p.where}: {p.what}" for p in errors)
    assert all(p.remedy for p in problems)
    assert any(half in p.where or half in p.what for p in errors)


def test_warnings_leave_the_series(tmp_path: Path) -> None:
    message, book = write_flow(tmp_path)
    rows = lines(book)
    rows[50] = cell(0, 0, rows[50].split(",")[2])([rows[50]])[0]
    put(book, rows)
    visible = next(n for n, row in enumerate(lines(message)) if row.split(",")[1] == "3")
    put(message, cell(visible, 4, 1_000_003)(lines(message)))
    series, problems = read_lobster(tmp_path, levels=3, tick=0.01)
    assert len(series) == 1
    texts = {f"{Path(p.where).name}: {p.what}" for p in problems}
    assert f"{book.name}: row 51: locked book: best ask equals best bid" in texts
    assert f"{message.name}: row {visible + 1}: price 100 off the tick of 0.01" in texts
    assert {p.severity for p in problems} == {"warning"}


def test_a_cut_last_size_is_noticed(tmp_path: Path) -> None:
    _, book = write_flow(tmp_path)
    book.write_bytes(book.read_bytes()[:-1])
    series, problems = read_lobster(tmp_path, levels=3)
    assert len(series) == 1
    assert "no line end and may be cut short" in problems[0].what
    assert problems[0].where.endswith("row 60")


def test_shifted_halves_are_noticed(tmp_path: Path) -> None:
    _, book = write_flow(tmp_path)
    rows = lines(book)
    put(book, [*rows[30:], *rows[:30]])
    _, problems = read_lobster(tmp_path, levels=3)
    assert any("does not show the order that its message submits" in p.what for p in problems)


def test_many_rows_of_one_kind_are_counted(tmp_path: Path) -> None:
    message, _ = write_flow(tmp_path)
    rows = [cell(0, 3, 0)([row])[0] for row in lines(message)]
    put(message, rows)
    _, problems = read_lobster(tmp_path, levels=3)
    found = [p for p in problems if "size not above 0" in p.what]
    assert len(found) == 4
    assert "more, the last at row 60" in found[3].what


@pytest.mark.parametrize(("before", "after"), [(b"\n", b"\r\n"), (b"", b"\xef\xbb\xbf")])
def test_line_ends_of_windows_and_byte_order_marks(
    tmp_path: Path, before: bytes, after: bytes
) -> None:
    write_flow(tmp_path)
    (plain,), _ = read_lobster(tmp_path, levels=3)
    for path in tmp_path.iterdir():
        content = path.read_bytes()
        path.write_bytes(content.replace(before, after) if before else after + content)
    (one,), problems = read_lobster(tmp_path, levels=3)
    assert not problems
    assert (one.time == plain.time).all()
    np.testing.assert_array_equal(one.book, plain.book)


def test_the_real_sample_is_read_whole(heed_data: Path) -> None:
    folder = heed_data / "finance" / "lobster_aapl_10lvl_snip"
    (one,), problems = read_lobster(folder)
    raw = np.loadtxt(folder / "AAPL_orderbook_10.csv", delimiter=",", dtype=np.int64)
    assert len(one) == len(raw) == 999
    assert (np.rint(one.book[:, 0::2] * 10_000).astype(np.int64) == raw[:, 0::2]).all()
    assert (one.book[:, 1::2] == raw[:, 1::2]).all()
    assert one.time[0] == 34_200_004_241_176
    assert [p.what for p in problems] == ["the last line has no line end and may be cut short"]

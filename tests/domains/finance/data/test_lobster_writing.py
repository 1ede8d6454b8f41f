from __future__ import annotations

import filecmp
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domains.finance.data.book import BookSeries, Events
from domains.finance.data.lobster import read_lobster
from domains.finance.data.lobster_writing import times_as_text, write_lobster
from shared_runtime.errors import DataError


@st.composite
def series(draw: st.DrawFn) -> BookSeries:
    """Draw any series that the format can hold."""
    rows = draw(st.integers(1, 12))
    levels = draw(st.integers(1, 4))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    cents = int(rng.integers(2_000, 900_000))
    book = np.empty((rows, 4 * levels))
    gaps = rng.integers(1, 40, size=(2, rows, levels)).cumsum(axis=2)
    book[:, 0::4] = (cents + gaps[0]) / 100
    book[:, 2::4] = (cents - gaps[1]) / 100
    book[:, 1::2] = rng.integers(1, 10**8, size=(rows, 2 * levels))
    for side in (0, 2):
        there = rng.integers(0, levels + 1, size=rows)
        empty = np.arange(levels) >= there[:, None]
        book[:, side::4][empty] = np.nan
        book[:, side + 1 :: 4][empty] = 0
    steps = draw(st.lists(st.integers(0, 10**10), min_size=rows, max_size=rows))
    events = Events(
        rng.integers(1, 6, size=rows).astype(np.int8),
        rng.integers(0, 10**12, size=rows),
        rng.integers(1, 10**8, size=rows).astype(np.float64),
        rng.integers(1, 10**6, size=rows) / 100,
        rng.choice([-1, 1], size=rows).astype(np.int8),
    )
    time = 34_200 * 10**9 + np.cumsum(steps)
    return BookSeries("X.Y_Z", "2031-12-31", time, book, "drawn", events=events)


def same(ours: BookSeries, theirs: BookSeries) -> None:
    assert (ours.instrument, ours.day) == (theirs.instrument, theirs.day)
    np.testing.assert_array_equal(ours.time, theirs.time)
    np.testing.assert_array_equal(ours.book, theirs.book)
    assert ours.events is not None and theirs.events is not None
    for name in ("type", "order_id", "size", "price", "direction"):
        np.testing.assert_array_equal(getattr(ours.events, name), getattr(theirs.events, name))


@settings(max_examples=60, deadline=None)
@given(drawn=series())
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, drawn: BookSeries
) -> None:
    folder = tmp_path_factory.mktemp("pair")
    message, book = write_lobster(drawn, folder)
    assert message.name.startswith("X.Y_Z_2031-12-31_") and book.parent == folder
    (back,), problems = read_lobster(folder, levels=drawn.levels)
    assert not [p for p in problems if p.severity == "error"]
    same(back, drawn)


@settings(max_examples=20, deadline=None)
@given(drawn=series(), cut=st.integers(1, 11))
def test_series_apart_are_read_back_apart(
    tmp_path_factory: pytest.TempPathFactory, drawn: BookSeries, cut: int
) -> None:
    folder = tmp_path_factory.mktemp("pair")
    parts = [
        part for part in (drawn.rows(slice(0, cut)), drawn.rows(slice(cut, None))) if len(part)
    ]
    write_lobster(parts, folder)
    back, _ = read_lobster(folder, levels=drawn.levels)
    assert len(back) == len(parts)
    for ours, theirs in zip(back, parts, strict=True):
        same(ours, theirs)


@given(st.integers(0, 86_400 * 10**9 - 1))
def test_times_are_written_exactly(time: int) -> None:
    (text,) = times_as_text(np.array([time]))
    seconds, _, rest = text.partition(".")
    assert int(seconds) * 10**9 + int(rest.ljust(9, "0") or 0) == time
    assert not rest.endswith("0")


def example() -> BookSeries:
    events = Events(np.ones(1, np.int8), np.ones(1, np.int64), np.ones(1), np.ones(1), np.ones(1))
    return BookSeries(
        "A", "", np.ones(1, np.int64), np.array([[2.0, 1, 1.0, 1]]), "x", events=events
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"events": None}, "no events"),
        (
            {"book": np.array([[2.00001, 1, 1.0, 1]])},
            "price 2.00001 is no whole multiple of 0.0001",
        ),
        ({"book": np.array([[2.0, 1.5, 1.0, 1]])}, "size 1.5 is no whole multiple of 1"),
        ({"book": np.array([[2e8, 1, 1.0, 1]])}, "below 1e+06"),
        ({"book": np.array([[2.0, np.inf, 1.0, 1]])}, "size inf"),
        ({"normalised": True}, "not in its units"),
        ({"book": np.zeros((0, 4))}, "without rows"),
    ],
)
def test_what_the_format_cannot_hold_is_refused(
    tmp_path: Path, change: dict[str, object], expected: str
) -> None:
    one = BookSeries(**{**example().__dict__, **change})
    with pytest.raises(DataError, match=expected.replace("+", r"\+")):
        write_lobster(one, tmp_path)


def test_series_of_two_books_are_refused(tmp_path: Path) -> None:
    one = example()
    other = BookSeries(**{**one.__dict__, "day": "2024-01-01"})
    with pytest.raises(DataError, match="of another book"):
        write_lobster([one, other], tmp_path)


def test_the_real_sample_comes_back_byte_by_byte(heed_data: Path, tmp_path: Path) -> None:
    folder = heed_data / "finance" / "lobster_aapl_10lvl_snip"
    (one,), _ = read_lobster(folder)
    for path in write_lobster(one, tmp_path):
        assert path.read_bytes() == (folder / path.name).read_bytes() + b"\n"
    assert not filecmp.dircmp(folder, tmp_path).left_only

"""Splits: what each part holds, that no part reads another, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from domains.finance.data.config import DataConfig
from domains.finance.data.splits import Parts, require_disjoint, split, take
from shared_runtime.errors import DataError
from tests.domains.finance.data.made_books import SECOND, make_book

FOLD = "{}_Dst_NoAuction_ZScore_CF_{}.txt"


def config(**options: object) -> DataConfig:
    return DataConfig(**{"path": Path("lob"), "lookback": 8, "horizon": 3, **options})


def ranges(part: tuple) -> list[tuple[int, int, int]]:
    return [(stretch.series, stretch.start, stretch.stop) for stretch in part]


def test_one_day_is_cut_in_time_order() -> None:
    parts = split([make_book(1009)], config())
    assert parts.kind == "time"
    assert ranges(parts.train) == [(0, 0, 706)]
    assert ranges(parts.val) == [(0, 706, 807)]
    assert ranges(parts.test) == [(0, 807, 1009)]


def test_a_day_with_halts_is_cut_once() -> None:
    """Three stretches of one day: the first trains whole, the last is tested whole."""
    series = [
        make_book(300, start=34_200 * SECOND),
        make_book(600, start=36_000 * SECOND),
        make_book(100, start=40_000 * SECOND),
    ]
    parts = split(series, config())
    assert ranges(parts.train) == [(0, 0, 300), (1, 0, 400)]
    assert ranges(parts.val) == [(1, 400, 500)]
    assert ranges(parts.test) == [(1, 500, 600), (2, 0, 100)]


def test_instruments_of_a_day_are_cut_at_the_same_time() -> None:
    """No instrument is trained on at a time at which another is already validated or tested."""
    series = [make_book(900), make_book(500, instrument="BBB", start=34_600 * SECOND, seed=1)]
    parts = split(series, config())
    edges = []
    for part in (parts.train, parts.val, parts.test):
        times = [one.time for one in take(series, part)]
        edges.append((min(t[0] for t in times), max(t[-1] for t in times)))
    assert edges[0][1] <= edges[1][0] <= edges[1][1] <= edges[2][0]
    assert sum(len(stretch) for stretch in parts.train) == 980


@pytest.mark.parametrize("label", ["tlob", "fi2010", "deeplob", "return"])
@pytest.mark.parametrize("kind", ["time", "day"])
def test_no_label_or_window_reads_rows_of_another_part(kind: str, label: str) -> None:
    """Every row that a part can read, by the rows its stretches hold, is its alone."""
    series = [make_book(400, day=f"2024-03-{d:02}", seed=d) for d in range(1, 6)]
    parts = split(series, config(split=kind, label=label))
    seen = [
        {(stretch.series, row) for stretch in part for row in range(stretch.start, stretch.stop)}
        for part in parts.items().values()
    ]
    assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])
    assert sum(map(len, seen)) == 2000


def test_days_are_whole_and_shared_by_all_instruments() -> None:
    series = [
        make_book(60, day=f"2024-03-{d:02}", instrument=name, seed=d)
        for name in ("AAA", "BBB")
        for d in range(1, 11)
    ]
    parts = split(series, config())
    assert parts.kind == "day"
    days = [{series[s.series].day[-2:] for s in part} for part in parts.items().values()]
    assert days == [{f"{d:02}" for d in range(1, 8)}, {"08"}, {"09", "10"}]
    assert len(parts.test) == 4


def test_time_since_1970_is_cut_at_midnight() -> None:
    day = 86_400 * SECOND
    start = 20_000 * day + day - 40 * SECOND
    one = make_book(2 * 86_400 + 80, levels=1, day="", start=start, events=False)
    parts = split([one], config(split="day", validation_fraction=0.25, test_fraction=0.25))
    assert [ranges(part)[0][1:] for part in (parts.val, parts.test)] == [
        (40 + 86_400, 40 + 2 * 86_400),
        (40 + 2 * 86_400, len(one)),
    ]
    assert parts.train[0].start == 0


def files(train: list[int], test: list[int], rows: int = 200) -> list:
    names = [FOLD.format("Train", fold) for fold in train]
    names += [FOLD.format("Test", fold) for fold in test]
    return [make_book(rows, day="", source=f"somewhere/{name}") for name in names for _ in "ab"]


def test_file_names_of_fi2010_say_what_is_tested() -> None:
    parts = split(files([7], [7, 8]), config(validation_fraction=0.2))
    assert parts.kind == "files"
    assert ranges(parts.train) == [(0, 0, 160), (1, 0, 160)]
    assert ranges(parts.val) == [(0, 160, 200), (1, 160, 200)]
    assert ranges(parts.test) == [(n, 0, 200) for n in range(2, 6)]


def test_given_labels_before_a_cut_are_purged() -> None:
    parts = split(files([7], [7]), config(validation_fraction=0.2, label="given", horizon=50))
    assert ranges(parts.train) == [(0, 0, 155), (1, 0, 155)]
    assert ranges(parts.val) == [(0, 160, 200), (1, 160, 200)]


def test_given_labels_are_purged_at_every_cut_but_not_at_the_end_of_a_file() -> None:
    one = make_book(1000, source="one_file.txt")
    parts = split([one], config(label="given", horizon=50, split="time"))
    assert ranges(parts.train) == [(0, 0, 695)]
    assert ranges(parts.val) == [(0, 700, 795)]
    assert ranges(parts.test) == [(0, 800, 1000)]


def test_every_fold_in_one_folder_means_the_published_one() -> None:
    series = files(list(range(1, 10)), list(range(1, 10)))
    parts = split(series, config())
    named = [{Path(series[s.series].source).name for s in p} for p in (parts.train, parts.test)]
    assert named == [{FOLD.format("Train", 7)}, {FOLD.format("Test", f) for f in (7, 8, 9)}]


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ([5], [4, 5], r"Test CF_4 \(day 5\) overlap with Train CF_5, which holds days 1 to 5"),
        ([1, 2], [2], "training folds CF_1, CF_2 hold the same days"),
        ([7], [], "no Test_... file"),
    ],
)
def test_folds_that_share_days_are_refused(train: list[int], test: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        split(files(train, test), config())


def test_copies_of_a_day_are_refused_by_name() -> None:
    one, other = make_book(300), make_book(300, day="2024-03-05")
    require_disjoint({"train": [one], "test": [other, make_book(300, instrument="BBB")]})
    with pytest.raises(DataError, match="train and test overlap: AAA 2024-03-04 in both"):
        require_disjoint({"train": [one], "test": [other, one.rows(slice(250, 300))]})
    require_disjoint({"train": [one.rows(slice(0, 250))], "test": [one.rows(slice(250, 300))]})


def test_interleaved_stretches_are_not_an_overlap() -> None:
    one = make_book(300)
    pieces = [one.rows(slice(i, i + 30)) for i in range(0, 300, 30)]
    require_disjoint({"train": pieces[::2], "test": pieces[1::2]})
    with pytest.raises(DataError, match="overlap"):
        require_disjoint({"train": pieces[::2], "test": [one.rows(slice(35, 70))]})


def test_too_little_data_says_what_is_needed() -> None:
    with pytest.raises(DataError, match=r"val part needs an unbroken stretch of 14 rows .* has 10"):
        split([make_book(100)], config(smoothing=10))
    with pytest.raises(DataError, match="needs at least 3 days, there is 1"):
        split([make_book(100)], config(split="day"))
    with pytest.raises(DataError, match="no order book"):
        split([], config())
    with pytest.raises(DataError, match="leave none of 4 to train"):
        series = [make_book(60, day=f"2024-03-0{d}") for d in range(1, 5)]
        split(series, config(split="day", validation_fraction=0.4, test_fraction=0.5))


def test_shares_are_whole_rows() -> None:
    rows = np.arange(1000, 1100)
    for n in rows:
        parts: Parts = split([make_book(int(n), levels=1, events=False)], config())
        assert parts.train[0].stop == int(n) * 7 // 10
        assert parts.val[0].stop == int(n) * 8 // 10

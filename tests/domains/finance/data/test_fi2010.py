from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from domains.finance.data.fi2010 import boundaries, fi2010_files, read_fi2010
from tests.domains.finance.data.fi2010_files import walk, write_fi2010

SCALINGS = ("ZScore", "MinMax", "DecPre")
LENGTHS = (700, 40, 900, 350)
PRICES = (26.0, 26.4, 9.5, 14.2)


def days() -> list[np.ndarray]:
    return [
        walk(n, price, seed) for seed, (n, price) in enumerate(zip(LENGTHS, PRICES, strict=True))
    ]


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("auction", ["Auction", "NoAuction"])
def test_stocks_and_days_become_series(tmp_path: Path, scaling: str, auction: str) -> None:
    path = tmp_path / f"Train_Dst_{auction}_{scaling}_CF_7.txt"
    rows = write_fi2010(path, days(), scaling)
    series, problems = read_fi2010(path)
    assert not [p for p in problems if p.severity == "error"]
    assert [len(one) for one in series] == list(LENGTHS)
    assert [one.first_row for one in series] == [1, 701, 741, 1641]
    assert len({one.instrument for one in series}) == 4
    at = 0
    for one in series:
        stop = at + len(one)
        np.testing.assert_allclose(one.book, rows[:40, at:stop].T, rtol=1e-12)
        np.testing.assert_allclose(one.given, rows[40:144, at:stop].T, rtol=1e-12)
        assert (one.given_labels == rows[144:, at:stop].T - 1).all()
        assert one.given_labels.dtype == np.int8 and one.given_horizons == (10, 20, 30, 50, 100)
        assert one.normalised == (scaling != "DecPre")
        assert one.source == str(path)
        at = stop


def test_decimal_prices_keep_their_unit_and_tick(tmp_path: Path) -> None:
    path = tmp_path / "Test_Dst_NoAuction_DecPre_CF_8.txt"
    write_fi2010(path, [walk(500, 26.0, 0)], "DecPre")
    (one,), _ = read_fi2010(path, levels=5)
    assert one.levels == 5
    assert one.tick == pytest.approx(1e-4)
    assert (one.spread > 0).all()


@pytest.mark.parametrize("seed", range(5))
def test_boundaries_are_found_in_a_long_file_and_nowhere_else(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(300, 5000, size=12)
    parts, price = [], 20.0
    for length in lengths:
        parts.append(walk(int(length), price, int(length)))
        price = parts[-1][0, -1] * np.exp(rng.choice([-1, 1]) * rng.uniform(0.008, 0.03))
    found = boundaries(np.concatenate(parts, axis=1)[0::2])
    assert found.tolist() == np.cumsum(lengths)[:-1].tolist()


def test_constant_prices_have_no_boundary() -> None:
    assert len(boundaries(np.ones((20, 2000)))) == 0
    assert len(boundaries(np.ones((20, 1)))) == 0


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda lines: lines[:148], "148 rows of 60 columns"),
        (lambda lines: [*lines, lines[0]], "more than 149 rows"),
        (lambda lines: [*lines[:148], lines[148][:-200]], "row 149: "),
        (lambda lines: [lines[0].replace("e", "x", 1), *lines[1:]], "is not a number"),
        (lambda lines: [*lines[:144], lines[0], *lines[145:]], "unknown label for 10 events"),
        (lambda lines: ["nan" + lines[0][16:], *lines[1:]], "not finite"),
        (lambda lines: [line.replace("  ", ", ") for line in lines], "is not a number"),
        (lambda lines: [], "0 rows"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, change, expected: str) -> None:
    path = tmp_path / "Train_Dst_NoAuction_ZScore_CF_1.txt"
    write_fi2010(path, [walk(60, 26.0, 0)])
    path.write_text("".join(f"{line}\n" for line in change(path.read_text().splitlines())))
    series, problems = read_fi2010(path)
    assert not series
    assert expected in "; ".join(map(str, problems))


def test_more_levels_than_the_file_has_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "Train_Dst_NoAuction_ZScore_CF_1.txt"
    write_fi2010(path, [walk(60, 26.0, 0)])
    assert "set data.levels to 10" in str(read_fi2010(path, levels=11)[1][0])


def test_crossed_books_of_decimal_prices_are_told(tmp_path: Path) -> None:
    book = walk(60, 26.0, 0)
    book[0, 6] = book[2, 6] - 0.02
    path = tmp_path / "Train_Dst_NoAuction_DecPre_CF_1.txt"
    write_fi2010(path, [book], "DecPre")
    _, problems = read_fi2010(path)
    assert [p.where for p in problems] == [f"{path}: column 7"]


def test_the_published_folds_are_taken_of_a_folder_of_all(tmp_path: Path) -> None:
    for part in ("Train", "Test"):
        for fold in range(1, 10):
            inner = tmp_path / f"NoAuction_Zscore_{part}ing"
            inner.mkdir(exist_ok=True)
            (inner / f"{part}_Dst_NoAuction_ZScore_CF_{fold}.txt").touch()
    files, problems = fi2010_files(tmp_path)
    assert [path.stem[-4:] for path in files] == ["CF_7", "CF_7", "CF_8", "CF_9"]
    assert files[0].name.startswith("Train") and files[1].name.startswith("Test")
    assert "14 files of other folds" in problems[0].what and problems[0].severity == "warning"


def test_one_training_fold_keeps_all_files(tmp_path: Path) -> None:
    for name in ("Train_Dst_Auction_MinMax_CF_3.txt", "Test_Dst_Auction_MinMax_CF_3.txt"):
        (tmp_path / name).touch()
    assert len(fi2010_files(tmp_path)[0]) == 2


def test_several_scalings_in_a_folder_are_refused(tmp_path: Path) -> None:
    for name in ("Train_Dst_Auction_MinMax_CF_3.txt", "Train_Dst_Auction_DecPre_CF_3.txt"):
        (tmp_path / name).touch()
    files, problems = fi2010_files(tmp_path)
    assert not files and problems[0].severity == "error"

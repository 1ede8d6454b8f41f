from __future__ import annotations

from pathlib import Path

import pytest

from domains.finance.data.config import DataConfig
from domains.finance.data.reading import format_of, items, read_books
from tests.domains.finance.data.books import write_flow
from tests.domains.finance.data.fi2010_files import walk, write_fi2010
from tests.domains.finance.data.test_tables import diffs, snapshots


def config(path: Path, **options: object) -> DataConfig:
    return DataConfig(path=path, **{"levels": 2, **options})


def test_formats_are_told_by_their_files(tmp_path: Path) -> None:
    pairs, texts, tables = (tmp_path / name for name in ("pairs", "texts", "tables"))
    texts.mkdir(), tables.mkdir()
    message, _ = write_flow(pairs)
    fold = texts / "Train_Dst_NoAuction_DecPre_CF_7.txt"
    write_fi2010(fold, [walk(60, 26.0, 0)], "DecPre")
    snapshots().to_csv(tables / "btc.csv", index=False)
    diffs().to_parquet(tables / "eth.parquet")
    for path, kind, count in (
        (pairs, "lobster", 1),
        (message, "lobster", 1),
        (texts, "fi2010", 1),
        (fold, "fi2010", 1),
        (tables, "table", 2),
        (tables / "btc.csv", "table", 1),
    ):
        assert format_of(path) == kind
        series, problems = read_books(config(path))
        assert len(series) == count and not [p for p in problems if p.severity == "error"]
    (one,), _ = read_books(config(tables / "btc.csv", format="snapshots"))
    assert one.instrument == "btc"
    _, problems = read_books(config(tables / "btc.csv", format="diffs"))
    assert problems[0].what == "no column 'side'"


def test_places_without_books_are_errors(tmp_path: Path) -> None:
    (tmp_path / "notes.md").touch()
    for path, format, what in (
        (tmp_path, "auto", "no order books"),
        (tmp_path / "notes.md", "auto", "no order books"),
        (tmp_path / "gone", "auto", "no such file or folder"),
        (tmp_path / "gone", "lobster", "no such file or folder"),
        (tmp_path, "lobster", "no message file of LOBSTER"),
        (tmp_path, "fi2010", "no text file of FI-2010"),
        (tmp_path, "diffs", "no CSV or Parquet file"),
    ):
        series, problems = read_books(config(path, format=format))
        assert not series
        assert [p.what for p in problems] == [what]
        assert problems[0].severity == "error" and problems[0].remedy


def test_one_bad_file_does_not_hide_the_others(tmp_path: Path) -> None:
    snapshots().to_csv(tmp_path / "a.csv", index=False)
    (tmp_path / "b.csv").write_text("x,y\n1,2\n")
    (tmp_path / "c.csv").write_text("")
    series, problems = read_books(config(tmp_path))
    assert len(series) == 1
    assert [Path(p.where).name for p in problems] == ["b.csv", "c.csv"]


def test_items_are_files_that_are_predicted_alone(tmp_path: Path) -> None:
    message, _ = write_flow(tmp_path)
    for name in ("z.csv", "Test_Dst_Auction_MinMax_CF_7.txt", "a.parquet", ".hidden.csv", "x.md"):
        (tmp_path / name).touch()
    names = [path.name for path in items(tmp_path, "*")]
    assert names == [message.name, "Test_Dst_Auction_MinMax_CF_7.txt", "a.parquet", "z.csv"]
    assert [path.name for path in items(tmp_path, "*.parquet")] == ["a.parquet"]


@pytest.mark.parametrize("levels", [1, 3])
def test_levels_of_the_configuration_are_used(tmp_path: Path, levels: int) -> None:
    write_flow(tmp_path)
    (one,), _ = read_books(config(tmp_path, levels=levels))
    assert one.levels == levels

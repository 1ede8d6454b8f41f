"""Every kind of bad file has a stated behaviour: an error that names the place, or an option."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domains.forecasting.data.config import DataConfig
from domains.forecasting.data.panel import Panel
from domains.forecasting.data.reading import read_panel, require_panel
from domains.forecasting.data.samples import write_samples
from shared_runtime.errors import DataError


def hours(count: int, start: str = "2024-01-01", tz: str | None = None) -> pd.DatetimeIndex:
    return pd.date_range(start, periods=count, freq="h", tz=tz)


def wide(folder: Path, times: object, name: str = "wide.csv", **columns: object) -> Path:
    path = folder / name
    count = len(list(times))
    frame = pd.DataFrame({"date": times, **(columns or {"a": np.arange(count) ** 2 % 7})})
    frame.to_csv(path, index=False)
    return path


def problems(path: Path, **options: object) -> list[str]:
    panel, found = read_panel(DataConfig(path=path, **options))
    failed = any(problem.severity == "error" for problem in found)
    assert (panel is None) == failed
    return [str(problem).replace(f"{path.parent}/", "") for problem in found]


def panel_of(path: Path, **options: object) -> Panel:
    panel, found = read_panel(DataConfig(path=path, **options))
    assert panel is not None, [str(problem) for problem in found]
    return panel


def test_wide_file_keeps_values_times_and_names(tmp_path: Path) -> None:
    values = np.array([1e8 + 0.25, 1e8 + 0.5, 1e8 + 0.75])
    panel = panel_of(wide(tmp_path, hours(3), **{"load MW": values, "7": [1, 2, 4]}))
    assert (panel.layout, panel.channels, panel.frequency) == ("wide", ("load MW", "7"), "h")
    np.testing.assert_array_equal(panel.values[:, 0], values)
    np.testing.assert_array_equal(panel.times, hours(3).to_numpy())


def long_frame() -> pd.DataFrame:
    parts = []
    for name, count, start in (("007", 5, "2024-03-02"), ("NA", 3, "2023-12-30")):
        days = pd.date_range(start, periods=count, freq="D").strftime("%Y-%m-%d")
        parts.append(pd.DataFrame({"unique_id": name, "ds": days, "y": np.arange(count) + 0.5}))
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_long_series_of_different_start_keep_their_names_as_written(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"long.{suffix}"
    frame = long_frame()
    frame.to_csv(path, index=False) if suffix == "csv" else frame.to_parquet(path)
    panel = panel_of(path)
    assert panel.ids == ("007", "NA")
    assert panel.lengths.tolist() == [5, 3]
    assert panel.times[panel.offsets[1]] == np.datetime64("2023-12-30")
    np.testing.assert_array_equal(panel.values[:, 0], frame["y"])


def test_interleaved_series_are_brought_together(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    shuffled = long_frame().sort_values(["ds", "unique_id"])
    shuffled.to_csv(path, index=False)
    panel = panel_of(path)
    by_name = dict(zip(panel.ids, np.split(panel.values[:, 0], panel.offsets[1:-1]), strict=True))
    np.testing.assert_array_equal(by_name["007"], np.arange(5) + 0.5)
    np.testing.assert_array_equal(by_name["NA"], np.arange(3) + 0.5)


def test_parquet_written_with_its_index_is_read(tmp_path: Path) -> None:
    path = tmp_path / "indexed.parquet"
    pd.DataFrame({"a": [1.0, 2.0, 4.0]}, index=hours(3).rename("date")).to_parquet(path)
    assert panel_of(path).values[:, 0].tolist() == [1.0, 2.0, 4.0]


def test_all_problems_are_found_in_one_pass(tmp_path: Path) -> None:
    times = [str(t) for t in hours(8)]
    times[3], times[4] = times[4], times[3]
    times[6] = times[5]
    path = wide(
        tmp_path,
        times,
        a=["1", "x", "3", "inf", "5", "6", "7", "8"],
        b=[1, 2, 3, 4, None, 6, 7, 8],
        c=[2] * 8,
    )
    found = problems(path)
    assert found == [
        "error: wide.csv: line 3, column 'a': 'x' is not a number (1 such cells in the column); "
        "correct the cells, or leave them empty for missing values",
        "error: wide.csv: line 5, column 'a': an infinite value (1 such cells in the column); "
        "correct the cells, or leave them empty for missing values",
        "error: wide.csv: line 6: 2024-01-01 03:00:00 comes after 2024-01-01 04:00:00 "
        "(1 such rows); sort the file, or set data.unsorted=sort; for the clock change of autumn "
        "set data.timezone",
        "error: wide.csv: line 8: 2024-01-01 05:00:00 is there twice (1 repeated rows); remove "
        "one, or set data.duplicates=first, last or mean; for the clock change of autumn set "
        "data.timezone",
        "error: wide.csv: line 7: no rows between 2024-01-01 05:00:00 and 2024-01-01 07:00:00 "
        "(1 missing h steps in all); add the rows, or set data.gaps=insert with "
        "data.missing=forward_fill or mask; for the clock change of spring set data.timezone",
        "error: wide.csv: line 6, column 'b': a missing value (1 in the column); fill it in, or "
        "set data.missing=forward_fill or mask",
        "warning: wide.csv: column 'c': every value is 2; leave the column out, it tells a model "
        "nothing",
    ]


def test_first_error_is_raised_with_the_number_of_others(tmp_path: Path) -> None:
    path = wide(tmp_path, hours(3), a=["x", "inf", "1"])
    with pytest.raises(DataError, match=r"line 2, column 'a': 'x' is not a number.* \(1 more: "):
        require_panel(DataConfig(path=path))


def test_lines_are_counted_as_an_editor_does(tmp_path: Path) -> None:
    path = tmp_path / "blank.csv"
    path.write_text("date,a\n2024-01-01,1\n\n2024-01-02,2\n2024-01-03,oops\n\n")
    assert problems(path)[0].startswith("error: blank.csv: line 5, column 'a': 'oops'")


def test_parquet_places_are_rows(tmp_path: Path) -> None:
    path = tmp_path / "wide.parquet"
    pd.DataFrame({"date": hours(3), "a": [1.0, np.inf, 3.0]}).to_parquet(path)
    assert problems(path)[0].startswith("error: wide.parquet: row 1, column 'a': an infinite")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a readable table"),
        ("date,a\n", "no rows below the header"),
        ("date,a,a\n2024-01-01,1,2\n", "column 'a' appears twice"),
        ("date,a\n2024-01-01,1,2\n2024-01-02,2,3\n", "rows have more cells than the header"),
        ("date,a\n2024-01-01,1\n2024-01-02,2,3\n", "Expected 2 fields in line 3, saw 3"),
        ('date,"a\nb"\n2024-01-01,1\n', "column 'a\\nb' has a line break in its name"),
        ("when,a\n2024-01-01,1\n", "no column 'date'; a wide file has date and its channels"),
        ("unique_id,ds,z\nA,2024-01-01,1\n", "no column 'y'; a long file has unique_id, ds, y"),
        ("date\n2024-01-01\n", "no column to forecast"),
    ],
)
def test_what_is_no_table_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    found = problems(path)
    assert len(found) == 1
    assert message in found[0]
    assert "\n" not in found[0]


def test_binary_and_missing_files_are_one_line(tmp_path: Path) -> None:
    for name in ("x.parquet", "x.csv"):
        (tmp_path / name).write_bytes(bytes(range(128, 256)) * 9)
        assert "not a readable table" in problems(tmp_path / name)[0]
    assert "no such file" in problems(tmp_path / "absent.csv")[0]


@pytest.mark.parametrize(("rule", "expected"), [("first", 2.0), ("last", 4.0), ("mean", 3.0)])
def test_duplicates_follow_their_option(tmp_path: Path, rule: str, expected: float) -> None:
    times = [*hours(2), hours(2)[1], *hours(2, "2024-01-01 02:00")]
    path = wide(tmp_path, times, a=[1, 2, 4, 8, 16])
    panel = panel_of(path, duplicates=rule)
    assert panel.values[:, 0].tolist() == [1.0, expected, 8.0, 16.0]


def test_unsorted_rows_are_sorted_when_asked(tmp_path: Path) -> None:
    times = hours(4)[[2, 0, 3, 1]]
    panel = panel_of(wide(tmp_path, times, a=[2, 0, 3, 1]), unsorted="sort")
    assert panel.values[:, 0].tolist() == [0, 1, 2, 3]


def test_gaps_are_inserted_as_missing_values_when_asked(tmp_path: Path) -> None:
    path = wide(tmp_path, hours(9).delete([2, 3, 6]), a=[0, 1, 4, 5, 7, 8])
    found = problems(path, gaps="insert")
    assert [text.split(";")[0] for text in found] == [
        "error: wide.csv: 2024-01-01 02:00:00, column 'a': a missing value (3 in the column)"
    ]
    panel = panel_of(path, gaps="insert", missing="mask")
    np.testing.assert_array_equal(panel.times, hours(9).to_numpy())
    np.testing.assert_array_equal(panel.values[:, 0], [0, 1, np.nan, np.nan, 4, 5, np.nan, 7, 8])


def test_a_mistyped_year_does_not_insert_millions_of_rows(tmp_path: Path) -> None:
    times = [*map(str, hours(5)), "2204-01-01 05:00:00"]
    found = problems(wide(tmp_path, times), gaps="insert", missing="mask")
    assert "so many steps are not inserted" in found[0]


def test_times_off_the_grid_are_named(tmp_path: Path) -> None:
    times = [*hours(5), pd.Timestamp("2024-01-01 05:07")]
    assert problems(wide(tmp_path, times)) == [
        "error: wide.csv: line 7: 2024-01-01 05:07:00 is not on the h grid (1 such rows); set "
        "data.frequency, correct the times or resample the data"
    ]


def test_one_row_has_no_frequency_unless_given(tmp_path: Path) -> None:
    path = wide(tmp_path, hours(1), a=[3])
    assert "no regular time step is found" in problems(path)[0]
    assert panel_of(path, frequency="h").frequency == "h"


def test_frequency_names_of_old_and_unknown_ones(tmp_path: Path) -> None:
    path = wide(tmp_path, hours(3))
    assert panel_of(path, frequency="H").frequency == "h"
    assert (
        "pandas does not know data.frequency=sometimes" in problems(path, frequency="sometimes")[0]
    )


def test_series_without_a_name_or_value(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    path.write_text("unique_id,ds,y\nA,2024-01-01,1\n,2024-01-02,2\n")
    assert "line 3, column 'unique_id': no name of a series" in problems(path)[0]
    path.write_text("date,a,b\n2024-01-01,1,\n2024-01-02,2,\n")
    found = problems(path, missing="mask")
    assert found == [
        "warning: long.csv: column 'b': no value at all; leave the column out, it tells a model "
        "nothing"
    ]


def test_trailing_rows_of_known_covariates_are_a_horizon(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    path.write_text(
        "unique_id,ds,y,promotion\nA,2024-01-01,1,0\nA,2024-01-02,2,1\nA,2024-01-03,,1\n"
    )
    panel = panel_of(path, future_covariates=("promotion",))
    assert panel.horizon_rows.tolist() == [False, False, True]
    assert "a missing value" in problems(path, targets=("y",))[0]


def test_roles_cannot_be_series_or_times(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    long_frame().to_csv(path, index=False)
    assert "'ds' names series or times" in problems(path, targets=("ds",))[0]
    assert "no column 'price'" in problems(path, future_covariates=("price",))[0]


def test_samples_have_no_problems(tmp_path: Path) -> None:
    hourly, shops, *_ = write_samples(tmp_path, seed=1)
    assert problems(hourly) == problems(shops) == []
    assert panel_of(hourly).frequency == "h"
    many = panel_of(shops, future_covariates=("promotion",))
    assert many.frequency == "D"
    assert len(set(many.lengths)) > 3


def test_columns_that_are_not_numbers_in_parquet(tmp_path: Path) -> None:
    path = tmp_path / "wide.parquet"
    frame = pd.DataFrame({"date": hours(3), "when": hours(3), "flag": [True, False, True]})
    frame["list"] = [[1], [2], [3]]
    frame["huge"] = [1.0, 1e300, 2.0]
    frame["nullable"] = pd.array([1, 2, None], dtype="Int64")
    frame.to_parquet(path)
    found = problems(path, missing="mask")
    assert [text.split(";")[0] for text in found] == [
        "error: wide.parquet: column 'when': datetime64[ns] where numbers are expected",
        "error: wide.parquet: row 0, column 'list': array([1]) is not a number "
        "(3 such cells in the column)",
        "error: wide.parquet: row 1, column 'huge': a value beyond 3.4e38 "
        "(1 such cells in the column)",
    ]
    panel = panel_of(path, targets=("flag", "nullable"), missing="mask")
    np.testing.assert_array_equal(panel.values, [[1, 1], [0, 2], [1, np.nan]])


KNOWN = (
    *("date", "unique_id", "ds", "y", "2024-01-01", "2024-01-02 01:00", "2024-02-30", "1/2/24"),
    *("13/1/2024", "12:00", "2024-01-01T00:00+02:00", "2024-10-27 02:00Z", "9999-01-01", "nan"),
    *("", "1", "-2.5", "1e999", "inf", "True", "NA", '"', "\x00", "é", "٣", "\r", "a,b"),
)
CELLS = st.sampled_from(KNOWN) | st.text(max_size=4)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    header=st.sampled_from(["date,a", "unique_id,ds,y", "ds,y", "date"]) | st.text(max_size=8),
    rows=st.lists(st.lists(CELLS, min_size=1, max_size=4), max_size=6),
    timezone=st.sampled_from(["", "Europe/Berlin", "Mars"]),
    repair=st.booleans(),
)
def test_any_csv_is_a_panel_or_a_list_of_problems(
    tmp_path: Path, header: str, rows: list[list[str]], timezone: str, repair: bool
) -> None:
    path = tmp_path / "any.csv"
    text = "\n".join([header, *map(",".join, rows)])
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    options = {"gaps": "insert", "missing": "mask", "duplicates": "mean", "unsorted": "sort"}
    config = DataConfig(path=path, timezone=timezone, **(options if repair else {}))
    panel, found = read_panel(config)
    assert (panel is None) == any(problem.severity == "error" for problem in found)
    assert not any("\n" in str(problem) for problem in found)
    if panel is not None:
        assert panel.offsets[-1] == len(panel.times) == len(panel.values)
        assert not np.isinf(panel.values).any()
        for start, stop in zip(panel.offsets[:-1], panel.offsets[1:], strict=True):
            assert (np.diff(panel.times[start:stop]) > np.timedelta64(0)).all()

"""Time zones, clock changes and the ways people write dates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from domains.forecasting.data.config import DataConfig
from domains.forecasting.data.panel import Panel
from domains.forecasting.data.reading import read_panel

BERLIN = "Europe/Berlin"


def write(folder: Path, times: list[str], ids: list[str] | None = None) -> Path:
    path = folder / "series.csv"
    frame = pd.DataFrame({"ds": times, "y": np.arange(len(times))})
    if ids is not None:
        frame.insert(0, "unique_id", ids)
    frame.to_csv(path, index=False)
    return path


def panel_of(path: Path, **options: object) -> Panel:
    panel, found = read_panel(DataConfig(path=path, **options))
    assert panel is not None, [str(problem) for problem in found]
    return panel


def first_error(path: Path, **options: object) -> str:
    panel, found = read_panel(DataConfig(path=path, **options))
    assert panel is None
    return str(found[0])


def local_hours(start: str, end: str, minutes: int = 60) -> pd.DatetimeIndex:
    return pd.date_range(start, end, freq=f"{minutes}min", tz=BERLIN)


@pytest.mark.parametrize("minutes", [60, 30])
@pytest.mark.parametrize("day", ["2024-03-31", "2024-10-27"])
def test_naive_local_times_over_a_clock_change(tmp_path: Path, day: str, minutes: int) -> None:
    truth = local_hours(f"{day} 00:00", f"{day} 23:00", minutes)
    path = write(tmp_path, [str(t) for t in truth.tz_localize(None)])
    panel = panel_of(path, timezone=BERLIN)
    assert panel.local_times().equals(truth.as_unit("ns"))
    remedy = first_error(path)
    assert "data.timezone" in remedy


def test_clock_changes_of_many_series_do_not_mix(tmp_path: Path) -> None:
    truth = local_hours("2024-10-27 00:00", "2024-10-27 06:00")
    naive = [str(t) for t in truth.tz_localize(None)]
    panel = panel_of(
        write(tmp_path, naive * 2, ["a"] * len(truth) + ["b"] * len(truth)), timezone=BERLIN
    )
    assert panel.lengths.tolist() == [len(truth)] * 2
    assert panel.local_times().equals(truth.append(truth).as_unit("ns"))


def test_a_time_that_does_not_exist_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, ["2024-03-31 01:00", "2024-03-31 02:00", "2024-03-31 03:00"])
    assert first_error(path, timezone=BERLIN) == (
        f"error: {path}: line 3, column 'ds': 2024-03-31 02:00:00 does not exist in "
        "Europe/Berlin: clocks go forward then (1 such cells); correct data.timezone, or write "
        "times with their offset"
    )


def test_an_unknown_zone_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, ["2024-03-31", "2024-04-01"])
    assert "data.timezone=Berlin is not a known zone" in first_error(path, timezone="Berlin")


def test_days_in_a_zone_are_counted_on_its_clock(tmp_path: Path) -> None:
    days = pd.date_range("2024-03-29", "2024-04-02", freq="D")
    panel = panel_of(write(tmp_path, [str(d.date()) for d in days]), timezone=BERLIN)
    assert panel.frequency == "D"
    after = panel.local_times(panel.future_times(0, 2))
    assert list(after.tz_localize(None)) == list(pd.date_range("2024-04-03", periods=2))


def test_inserted_days_follow_the_clock_of_the_zone(tmp_path: Path) -> None:
    days = pd.date_range("2024-03-29", "2024-04-03", freq="D").delete([2, 3])
    path = write(tmp_path, [str(d.date()) for d in days])
    panel = panel_of(path, timezone=BERLIN, gaps="insert", missing="mask")
    local = panel.local_times().tz_localize(None)
    assert list(local) == list(pd.date_range("2024-03-29", "2024-04-03"))


def test_times_with_offsets_keep_the_instant(tmp_path: Path) -> None:
    truth = local_hours("2024-10-27 00:00", "2024-10-27 06:00")
    path = write(tmp_path, [t.isoformat() for t in truth])
    panel, found = read_panel(DataConfig(path=path))
    assert panel is not None
    assert panel.timezone == "UTC"
    assert "times have several offsets from UTC (+01:00, +02:00)" in str(found[0])
    assert panel.local_times().equals(truth.tz_convert("UTC").as_unit("ns"))
    assert panel_of(path, timezone=BERLIN).local_times().equals(truth.as_unit("ns"))


def test_a_constant_offset_is_kept_for_output(tmp_path: Path) -> None:
    path = write(tmp_path, [f"2024-01-0{n} 00:00:00-0530" for n in (1, 2, 3)])
    panel = panel_of(path)
    assert panel.timezone == "UTC-05:30"
    assert panel.frequency == "D"
    assert panel.local_times()[0].isoformat() == "2024-01-01T00:00:00-05:30"


def test_the_zone_of_parquet_is_kept(tmp_path: Path) -> None:
    truth = local_hours("2024-03-31 00:00", "2024-03-31 06:00")
    path = tmp_path / "zone.parquet"
    pd.DataFrame({"date": truth, "a": np.arange(len(truth))}).to_parquet(path)
    panel = panel_of(path)
    assert panel.timezone == BERLIN
    assert panel.local_times().equals(truth.as_unit("ns"))


def test_times_with_and_without_offset_do_not_mix(tmp_path: Path) -> None:
    path = write(tmp_path, ["2024-01-01 00:00Z", "2024-01-01 01:00"])
    assert "line 3, column 'ds': '2024-01-01 01:00' has no offset" in first_error(path)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (["31/01/2024", "01/02/2024"], ["2024-01-31", "2024-02-01"]),
        (["01/31/2024 00:00", "02/01/2024 00:00"], ["2024-01-31", "2024-02-01"]),
        (["30.12.2024", "31.12.2024", "01.01.2025"], ["2024-12-30", "2024-12-31", "2025-01-01"]),
        (["1990/1/1 0:00", "1990/1/2 0:00"], ["1990-01-01", "1990-01-02"]),
        (["2024-02-28", "2024-02-29T00:00:00"], ["2024-02-28", "2024-02-29"]),
        (["Jan 5 2024", "Jan 6 2024"], ["2024-01-05", "2024-01-06"]),
    ],
)
def test_ways_to_write_dates(tmp_path: Path, times: list[str], expected: list[str]) -> None:
    panel = panel_of(write(tmp_path, times))
    assert [str(t)[:10] for t in panel.times] == expected


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (["03/04/2024", "04/04/2024"], "day and month cannot be told apart"),
        (["13/04/2024", "04/14/2024"], "day and month cannot be told apart"),
        (["2024-01-01", "10:30"], "line 3, column 'ds': '10:30' is not a time"),
        (["2024-01-01", "12"], "line 3, column 'ds': '12' is not a time"),
        (["2024-01-01", "soon"], "line 3, column 'ds': 'soon' is not a time"),
        (["2024-01-01", ""], "line 3, column 'ds': no time"),
        (["2024-01-01", "2024-02-30"], "'2024-02-30' is not a time"),
        (["20240101", "20240102"], "numbers where times are expected"),
        (["2024-01-01", "3024-01-02"], "'3024-01-02' is not a time"),
    ],
)
def test_what_is_no_time_is_named(tmp_path: Path, times: list[str], message: str) -> None:
    assert message in first_error(write(tmp_path, times))


def test_far_times_of_parquet_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "far.parquet"
    times = np.array(["3024-01-01", "3024-01-02"], dtype="datetime64[us]")
    pd.DataFrame({"date": times, "a": [1, 2]}).to_parquet(path)
    assert "times cannot be used" in first_error(path)

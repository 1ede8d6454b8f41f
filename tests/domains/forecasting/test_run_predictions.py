"""Forecasts carry the names and times of their file, and depend on nothing they should not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from domains.forecasting.api import forecast
from shared_attention import UnsupportedError
from shared_runtime.domain import LoadedModel
from shared_runtime.errors import DataError
from shared_runtime.verbs.predict import predict
from shared_runtime.verbs.train import RunResult
from tests.domains.forecasting.small_runs import (
    DOMAIN,
    FORECASTERS,
    HORIZON,
    LOOKBACK,
    long_table,
    untrained,
    wide_table,
    write,
)

CPU = torch.device("cpu")


def future(loaded: LoadedModel, path: Path, batch_size: int = 32) -> pd.DataFrame:
    return DOMAIN.predict(loaded, path, batch_size=batch_size, data=None, device=CPU).table


def assert_close(left: pd.DataFrame, right: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(
        left.reset_index(drop=True), right.reset_index(drop=True), rtol=1e-5, atol=1e-5
    )


def test_wide_forecast_has_the_columns_of_the_file_and_the_times_after_it(
    wide_run: RunResult, wide_file: Path
) -> None:
    table = predict(DOMAIN, wide_run.folder, wide_file).table
    assert list(table) == ["date", "c0", "c1", "c2"]
    after = pd.date_range("2024-01-11 20:00", periods=HORIZON, freq="h")
    assert table["date"].tolist() == after.strftime("%Y-%m-%d %H:%M:%S").tolist()
    assert np.isfinite(table[["c0", "c1", "c2"]]).all(axis=None)


def test_long_forecast_keeps_ids_and_their_order_and_dates(
    long_run: RunResult, long_file: Path
) -> None:
    table = forecast(long_run.folder, long_file, device="cpu")
    assert list(table) == ["unique_id", "ds", "forecast"]
    assert table["unique_id"].tolist() == list(
        np.repeat(["north", "007", "south", "Ünder"], HORIZON)
    )
    after = pd.date_range("2024-07-01", periods=HORIZON, freq="D").strftime("%Y-%m-%d")
    assert table["ds"].tolist() == 4 * after.tolist()


@pytest.mark.parametrize(
    ("start", "frequency", "expected"),
    [
        ("2015-01-01", "MS", ["2023-05-01", "2023-06-01", "2023-07-01"]),
        ("2015-01-31", "ME", ["2023-05-31", "2023-06-30", "2023-07-31"]),
        ("2023-12-01", "B", ["2024-04-19", "2024-04-22", "2024-04-23"]),
        ("2000-01-02", "W", ["2001-12-02", "2001-12-09", "2001-12-16"]),
        ("2024-01-01", "15min", ["2024-01-02 01:00:00", "2024-01-02 01:15:00"]),
    ],
)
def test_the_horizon_continues_the_calendar_of_the_series(
    tmp_path: Path, start: str, frequency: str, expected: list[str]
) -> None:
    times = pd.date_range(start, periods=100, freq=frequency)
    path = write(wide_table(times), tmp_path / "series.csv")
    loaded, _ = untrained(path, sets=["data.test_fraction=0.15"])
    table = future(loaded, path)
    assert table["date"].tolist()[: len(expected)] == expected
    follow = pd.date_range(times[-1], periods=HORIZON + 1, freq=frequency)[1:]
    assert (pd.DatetimeIndex(table["date"]) == follow).all()


def berlin(path: Path, last: str, hours: int = 200) -> tuple[Path, pd.DatetimeIndex]:
    times = pd.date_range(end=pd.Timestamp(last, tz="Europe/Berlin"), periods=hours, freq="h")
    return write(wide_table(times), path), times


@pytest.mark.parametrize("last", ["2024-10-26 22:00", "2024-03-30 22:00"])
def test_hours_across_a_clock_change_are_told_apart_by_their_offset(
    tmp_path: Path, last: str
) -> None:
    path, times = berlin(tmp_path / "hours.csv", last)
    loaded, _ = untrained(path, sets=["data.timezone=Europe/Berlin"])
    follow = pd.date_range(times[-1], periods=HORIZON + 1, freq="h")[1:]
    assert future(loaded, path)["date"].tolist() == [t.isoformat(sep=" ") for t in follow]


def test_a_clock_change_inside_the_file_leaves_the_forecast_where_it_is(tmp_path: Path) -> None:
    path, times = berlin(tmp_path / "hours.csv", "2024-10-28 07:00")
    loaded, _ = untrained(path, sets=["data.timezone=Europe/Berlin"])
    first = future(loaded, path)["date"].iloc[0]
    assert pd.Timestamp(first) == times[-1] + pd.Timedelta(hours=1)


def test_times_with_an_offset_are_forecast_with_that_offset(tmp_path: Path) -> None:
    frame = wide_table(pd.date_range("2024-01-01", periods=200, freq="h"))
    path = write(frame.assign(date=frame["date"] + "+02:00"), tmp_path / "offset.csv")
    loaded, _ = untrained(path)
    assert future(loaded, path)["date"].iloc[0] == "2024-01-09 08:00:00+02:00"


def test_hours_are_written_with_hours_even_where_all_are_midnight(tmp_path: Path) -> None:
    path = write(
        wide_table(pd.date_range("2024-01-01", periods=192, freq="h")), tmp_path / "hours.csv"
    )
    loaded, prepared = untrained(path, sets=["data.horizon=1"])
    assert future(loaded, path)["date"].tolist() == ["2024-01-09 00:00:00"]
    evaluation = DOMAIN.evaluate(loaded, prepared, "test", batch_size=8, device=CPU, seed=0)
    assert evaluation.predictions["cutoff"].str.len().eq(19).all()


def test_quantile_columns_are_named_and_ordered(quantile_run: RunResult, wide_file: Path) -> None:
    table = predict(DOMAIN, quantile_run.folder, wide_file).table
    levels = ["q0.1", "q0.25", "q0.5", "q0.75", "q0.9"]
    assert list(table) == ["date", *(f"c{n}-{level}" for n in range(3) for level in levels)]
    for channel in range(3):
        values = table[[f"c{channel}-{level}" for level in levels]].to_numpy()
        assert (np.diff(values, axis=1) >= 0).all()


def test_long_quantile_columns(long_file: Path) -> None:
    loaded, _ = untrained(long_file, sets=["data.targets=[y]", "data.quantiles=[0.05,0.5,0.95]"])
    names = ["unique_id", "ds", "forecast-q0.05", "forecast-q0.5", "forecast-q0.95"]
    assert list(future(loaded, long_file)) == names


@pytest.mark.parametrize("kind", ["wide", "quantile"])
def test_a_forecast_is_what_evaluation_gave_for_the_same_cut_off(
    request: pytest.FixtureRequest, wide_file: Path, tmp_path: Path, kind: str
) -> None:
    run: RunResult = request.getfixturevalue(f"{kind}_run")
    evaluated = run.evaluation.predictions.tail(HORIZON)
    frame = pd.read_csv(wide_file)
    path = write(frame.iloc[:-HORIZON], tmp_path / "cut.csv")
    assert (evaluated["cutoff"] == frame["date"].iloc[-HORIZON - 1]).all()
    assert evaluated["c1-true"].tolist() == frame["c1"].tail(HORIZON).tolist()
    predicted = predict(DOMAIN, run.folder, path).table
    assert_close(predicted, evaluated[list(predicted)])


def test_a_long_forecast_is_what_evaluation_gave_for_the_same_cut_off(
    long_run: RunResult, long_file: Path, tmp_path: Path
) -> None:
    frame = pd.read_csv(long_file, dtype={"unique_id": str})
    cut = frame[frame["ds"] < "2024-06-19"]
    predicted = predict(DOMAIN, long_run.folder, write(cut, tmp_path / "cut.csv")).table
    assert_close(predicted, long_run.evaluation.predictions[list(predicted)])


def test_a_forecast_with_covariates_is_what_evaluation_gave(
    covariate_run: RunResult, long_file: Path, tmp_path: Path
) -> None:
    frame = pd.read_csv(long_file, dtype={"unique_id": str})
    frame.loc[frame["ds"] >= "2024-06-19", "y"] = np.nan
    predicted = predict(DOMAIN, covariate_run.folder, write(frame, tmp_path / "ahead.csv")).table
    evaluated = covariate_run.evaluation.predictions
    assert_close(predicted, evaluated.loc[evaluated["cutoff"] == "2024-06-18", list(predicted)])


def test_known_covariates_of_the_horizon_change_the_forecast(
    covariate_run: RunResult, long_file: Path, tmp_path: Path
) -> None:
    frame = pd.read_csv(long_file, dtype={"unique_id": str})
    ahead = frame["ds"] >= "2024-06-19"
    frame.loc[ahead, "y"] = np.nan
    tables = []
    for promotion in (0, 1):
        path = tmp_path / f"{promotion}.csv"
        write(frame.assign(promotion=frame["promotion"].where(~ahead, promotion)), path)
        tables.append(predict(DOMAIN, covariate_run.folder, path).table)
    assert (tables[0]["forecast"] != tables[1]["forecast"]).all()


def test_missing_covariates_of_the_horizon_are_refused(
    covariate_run: RunResult, long_file: Path, tmp_path: Path
) -> None:
    frame = pd.read_csv(long_file, dtype={"unique_id": str})
    few = frame["ds"] < "2024-06-29"
    frame.loc[frame["ds"] >= "2024-06-19", "y"] = np.nan
    path = write(frame[few | (frame["unique_id"] != "south")], tmp_path / "few.csv")
    with pytest.raises(DataError) as caught:
        predict(DOMAIN, covariate_run.folder, path)
    assert str(caught.value) == (
        f"{path}: series 'south' has fewer than 12 rows of promotion after its last observed "
        "value; add rows with the covariates and empty targets"
    )


def test_a_series_without_any_value_and_too_short_a_table_are_refused(
    covariate_run: RunResult, wide_run: RunResult, long_file: Path, wide_file: Path, tmp_path: Path
) -> None:
    frame = pd.read_csv(long_file, dtype={"unique_id": str})
    frame.loc[(frame["unique_id"] == "007") | (frame["ds"] >= "2024-06-19"), "y"] = np.nan
    path = write(frame, tmp_path / "empty.csv")
    with pytest.raises(DataError, match=r"series '007' has no observed value; remove it$"):
        predict(DOMAIN, covariate_run.folder, path)
    path = write(pd.read_csv(wide_file).head(LOOKBACK - 1), tmp_path / "short.csv")
    with pytest.raises(DataError, match="23 rows, the model looks back 24; give more rows"):
        predict(DOMAIN, wide_run.folder, path)


@pytest.mark.parametrize("model", [name for name in FORECASTERS if name != "Autoformer"])
def test_neither_batch_size_nor_the_other_series_change_a_forecast(
    tmp_path: Path, model: str
) -> None:
    """`short` is left-padded to the look-back; alone, among others, and in any batch."""
    loaded, file = with_a_short_series(tmp_path, model)
    together = future(loaded, file)
    assert_close(together, future(loaded, file, batch_size=1))
    frame = pd.read_csv(file)
    only = frame[frame["unique_id"] == "short"]
    assert 0 < len(only) < LOOKBACK
    alone = future(loaded, write(only, tmp_path / "alone.csv"))
    assert_close(alone, together[together["unique_id"] == "short"])


def test_a_mechanism_without_masks_refuses_padding_and_says_which_have_them(
    tmp_path: Path,
) -> None:
    loaded, file = with_a_short_series(tmp_path, "Autoformer")
    with pytest.raises(UnsupportedError, match="'auto_correlation' does not support key_padding"):
        future(loaded, file)


def with_a_short_series(folder: Path, model: str) -> tuple[LoadedModel, Path]:
    frame = long_table({"a": 80, "short": 70, "b": 100, "c": 90})
    path = write(frame, folder / "train.csv")
    loaded, _ = untrained(path, model, ["data.targets=[y]"])
    kept = (frame["unique_id"] != "short") | (frame["ds"] > "2024-06-10")
    return loaded, write(frame[kept], folder / "together.csv")


def test_interleaved_rows_give_the_same_forecasts(
    long_run: RunResult, long_file: Path, tmp_path: Path
) -> None:
    frame = pd.read_csv(long_file, dtype={"unique_id": str})
    path = write(frame.sort_values("ds", kind="stable"), tmp_path / "interleaved.csv")
    usual = predict(DOMAIN, long_run.folder, long_file).table.set_index(["unique_id", "ds"])
    mixed = predict(DOMAIN, long_run.folder, path).table.set_index(["unique_id", "ds"])
    assert_close(mixed.loc[usual.index], usual)

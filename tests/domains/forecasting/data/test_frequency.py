"""Frequencies are found from times alone, gaps and several series included."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domains.forecasting.data.calendar import calendar_covariates, phase_levels
from domains.forecasting.data.frequency import (
    canonical_frequency,
    grid_positions,
    infer_frequency,
    later,
    season_of,
)

FREQUENCIES = (
    *("s", "10s", "min", "15min", "30min", "h", "6h", "D", "2D", "7D", "B"),
    *("MS", "ME", "2MS", "QS-JAN", "QS-FEB", "QS-MAR", "QE-DEC", "QE-NOV", "QE-OCT"),
    *("YS-JAN", "YS-JUL", "YE-DEC", "YE-JUN"),
)


def one_series(count: int) -> np.ndarray:
    return np.arange(count) == 0


@pytest.mark.parametrize("frequency", FREQUENCIES)
def test_pandas_grids_are_recognised_and_continued(frequency: str) -> None:
    times = pd.date_range("2021-03-05", periods=40, freq=frequency)
    known, after = times[:35], times[35:]
    breaks = one_series(35)
    assert infer_frequency(known, breaks) == frequency
    places, off = grid_positions(known, frequency, breaks)
    assert not off.any()
    np.testing.assert_array_equal(places, np.arange(35))
    last = pd.DatetimeIndex([known[-1]] * 5)
    np.testing.assert_array_equal(later(last, np.arange(1, 6), frequency, None), after.to_numpy())


@settings(max_examples=40, deadline=None)
@given(
    frequency=st.sampled_from(FREQUENCIES),
    holes=st.sets(st.integers(1, 38), max_size=6),
    second=st.integers(0, 20),
)
def test_gaps_do_not_hide_the_frequency(frequency: str, holes: set[int], second: int) -> None:
    grid = pd.date_range("2020-01-01", periods=60, freq=frequency)
    kept = np.array([n for n in range(40) if n not in holes])
    times = grid[kept].append(grid[second : second + 40])
    breaks = np.r_[one_series(len(kept)), one_series(40)]
    assert infer_frequency(times, breaks) == frequency
    places, off = grid_positions(times, frequency, breaks)
    assert not off.any()
    np.testing.assert_array_equal(places, np.r_[kept, np.arange(40)])


def test_irregular_times_have_no_frequency() -> None:
    days = np.cumsum([1, 5, 2, 9, 3, 7, 4, 11])
    times = pd.Timestamp("2024-01-01") + pd.to_timedelta(days, unit="D")
    assert infer_frequency(pd.DatetimeIndex(times), one_series(8)) is None
    assert infer_frequency(pd.DatetimeIndex(times[:1]), one_series(1)) is None


def test_times_off_the_grid_are_marked() -> None:
    times = pd.to_datetime(["2024-01-01", "2024-02-01", "2024-02-15", "2024-04-01"])
    _, off = grid_positions(times, "MS", one_series(4))
    assert off.tolist() == [False, False, True, False]
    _, off = grid_positions(times, "31D", one_series(4))
    assert off.tolist() == [False, False, True, True]


def test_old_names_are_understood_and_unknown_ones_refused() -> None:
    assert [canonical_frequency(name) for name in ("H", "T", "M")] == ["h", "min", "ME"]
    with pytest.raises(ValueError, match="sometimes"):
        canonical_frequency("sometimes")


@pytest.mark.parametrize(
    ("frequency", "season"),
    [
        *(("15min", 96), ("h", 24), ("6h", 4), ("D", 7), ("B", 5), ("7D", 52), ("W-SUN", 52)),
        *(("MS", 12), ("2MS", 6), ("QS-JAN", 4), ("QE-DEC", 4), ("YS-JAN", 1)),
    ],
)
def test_seasons(frequency: str, season: int) -> None:
    assert season_of(frequency) == season


@pytest.mark.parametrize("frequency", [*FREQUENCIES, "W-SUN"])
def test_calendar_covariates_are_bounded_and_the_first_has_its_levels(frequency: str) -> None:
    times = pd.date_range("2020-01-01", periods=200 if "Y" in frequency else 800, freq=frequency)
    covariates = calendar_covariates(times, frequency)
    assert covariates.dtype == np.float32
    assert covariates.min() >= -0.5
    assert covariates.max() <= 0.5
    phase = (covariates[:, 0] + 0.5) * (phase_levels(frequency) - 1)
    np.testing.assert_allclose(phase, phase.round(), atol=2e-2)
    cycle = {"h": 24, "15min": 96, "D": 7, "7D": 52, "MS": 12}.get(frequency)
    if cycle:
        assert len(np.unique(phase.round())) == cycle == phase_levels(frequency)


def test_hourly_covariates_are_those_of_the_field() -> None:
    times = pd.DatetimeIndex(["2024-12-31 23:00", "2024-01-01 00:00"])
    expected = [
        [0.5, 1 / 6 - 0.5, 0.5, 0.5],
        [-0.5, -0.5, -0.5, -0.5],
    ]
    np.testing.assert_allclose(calendar_covariates(times, "h"), expected, atol=1e-6)

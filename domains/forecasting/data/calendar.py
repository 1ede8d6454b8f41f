"""Calendar covariates, each in [-0.5, 0.5]."""

from __future__ import annotations

import numpy as np
import pandas as pd

from domains.forecasting.data.frequency import is_sub_daily, season_of


def phase_levels(frequency: str) -> int:
    """Return how many values the first calendar covariate takes."""
    offset = pd.tseries.frequencies.to_offset(frequency)
    if is_sub_daily(frequency):
        return max(2, season_of(frequency))
    if isinstance(offset, pd.offsets.BusinessDay):
        return 7
    if isinstance(offset, pd.offsets.Tick):
        return 7 if pd.Timedelta(offset) < pd.Timedelta(days=7) else 52
    return 52 if isinstance(offset, pd.offsets.Week) else 12


def calendar_covariates(times: pd.DatetimeIndex, frequency: str) -> np.ndarray:
    """Return the calendar covariates of times in their own zone, float32 `[T, F]`.

    The first is the phase in the natural cycle, of `phase_levels` values: time of day below a
    day, day of the week for days, week of the year for weeks, month for months and longer. The
    others are the longer cycles the field uses at that frequency: day of the week, of the month
    and of the year.
    """
    levels = phase_levels(frequency)
    day_of_week = _scaled(times.dayofweek, 7)
    day_of_month = _scaled(times.day - 1, 31)
    day_of_year = _scaled(times.dayofyear - 1, 366)
    if is_sub_daily(frequency):
        seconds = times.hour * 3600 + times.minute * 60 + times.second
        phase = _scaled(seconds * levels // 86400, levels)
        features = [phase, day_of_week, day_of_month, day_of_year]
    elif levels == 7:
        features = [day_of_week, day_of_month, day_of_year]
    elif levels == 52:
        week = _scaled(np.minimum((times.dayofyear - 1) // 7, 51), 52)
        features = [week, day_of_month]
    else:
        features = [_scaled(times.month - 1, 12)]
    return np.stack(features, axis=1).astype(np.float32)


def _scaled(values: np.ndarray | pd.Index, levels: int) -> np.ndarray:
    return np.asarray(values, dtype=np.float64) / (levels - 1) - 0.5

"""Calendar covariates, each in [-0.5, 0.5]."""

from __future__ import annotations

import numpy as np
import pandas as pd

from domains.forecasting.data.frequency import season_of


def phase_levels(frequency: str) -> int:
    """Return how many values the first calendar covariate takes: the steps of one season."""
    return max(2, season_of(frequency))


def calendar_covariates(times: pd.DatetimeIndex, frequency: str) -> np.ndarray:
    """Return the calendar covariates of times in their own zone, float32 `[T, F]`.

    The first is the phase in the natural season (time of day below a day, day of the week for
    days, week of the year for weeks, month for months and quarters); the others are the longer
    cycles the field uses at that frequency: day of the week, of the month and of the year.
    """
    offset = pd.tseries.frequencies.to_offset(frequency)
    day_of_week = _scaled(times.dayofweek, 7)
    day_of_month = _scaled(times.day - 1, 31)
    day_of_year = _scaled(times.dayofyear - 1, 366)
    week = _scaled(np.minimum((times.dayofyear - 1) // 7, 51), 52)
    month = _scaled(times.month - 1, 12)
    if isinstance(offset, pd.offsets.Tick) and pd.Timedelta(offset) < pd.Timedelta(days=1):
        levels = phase_levels(frequency)
        seconds = times.hour * 3600 + times.minute * 60 + times.second
        phase = _scaled(seconds * levels // 86400, levels)
        features = [phase, day_of_week, day_of_month, day_of_year]
    elif isinstance(offset, pd.offsets.BusinessDay) or frequency == "D":
        features = [day_of_week, day_of_month, day_of_year]
    elif isinstance(offset, pd.offsets.Tick) or offset.name.startswith("W"):
        features = [week, day_of_month]
    else:
        features = [month]
    return np.stack(features, axis=1).astype(np.float32)


def _scaled(values: np.ndarray | pd.Index, levels: int) -> np.ndarray:
    return np.asarray(values, dtype=np.float64) / (levels - 1) - 0.5

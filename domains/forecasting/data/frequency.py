"""The time grid of series: its frequency, and the place of every timestamp on it."""

from __future__ import annotations

import numpy as np
import pandas as pd

_CALENDAR = ("MS", "ME", "QS-JAN", "QS-FEB", "QS-MAR", "QE-DEC", "QE-NOV", "QE-OCT", "YS", "YE")
_SEASONS = {
    "h": 24,
    "D": 7,
    "B": 5,
    "W": 52,
    "MS": 12,
    "ME": 12,
    "QS": 4,
    "QE": 4,
    "YS": 1,
    "YE": 1,
}


def infer_frequency(times: pd.DatetimeIndex, breaks: np.ndarray) -> str | None:
    """Return the pandas frequency of series, or None where there is no regular one.

    The most common distance between neighbours decides, so gaps do not hide it.

    Args:
        times: sorted within each series.
        breaks: bool `[T]`, True at the first row of a series.
    """
    steps = np.diff(times.asi8)[~breaks[1:]]
    steps = steps[steps > 0]
    if not len(steps):
        return None
    if (times == times.normalize()).all():
        for name in _CALENDAR:
            offset = pd.tseries.frequencies.to_offset(name)
            if steps.min() > pd.Timedelta(days=27).value and all(
                offset.is_on_offset(time) for time in times.unique()
            ):
                return name
        days = times.dayofweek
        one_day = pd.Timedelta(days=1).value
        if (days < 5).all() and one_day in steps and set(np.unique(steps)) - {one_day}:
            return "B"
    values, counts = np.unique(steps, return_counts=True)
    common = values[counts.argmax()]
    if 2 * counts.max() < len(steps) or (steps % common).any():
        return None
    return str(pd.tseries.frequencies.to_offset(pd.Timedelta(common)).freqstr)


def grid_positions(times: pd.DatetimeIndex, frequency: str) -> np.ndarray | None:
    """Return the integer place of each time on the grid, int64 `[T]`; None if some is off it."""
    offset = pd.tseries.frequencies.to_offset(frequency)
    if isinstance(offset, pd.offsets.BusinessDay):
        days = times.normalize().to_numpy("datetime64[D]")
        if not np.is_busday(days).all():
            return None
        return np.asarray(np.busday_count(np.datetime64("1970-01-01"), days))
    if isinstance(offset, pd.offsets.Tick):
        step = pd.Timedelta(offset).value
        distance = times.asi8 - times.asi8.min()
        return None if (distance % step).any() else distance // step
    if not all(offset.is_on_offset(time) for time in times.unique()):
        return None
    naive = times.tz_localize(None) if times.tz is not None else times
    grid = pd.date_range(naive.min().normalize(), naive.max(), freq=offset.base, normalize=True)
    places = np.searchsorted(grid.to_numpy(), naive.normalize().to_numpy())
    return places // offset.n if offset.n > 1 else places


def season_of(frequency: str) -> int:
    """Return the natural season in steps: a day of hours, a week of days, a year of months."""
    offset = pd.tseries.frequencies.to_offset(frequency)
    if isinstance(offset, pd.offsets.Tick):
        step, day = pd.Timedelta(offset), pd.Timedelta(days=1)
        if step < day:
            return max(1, round(day / step))
        return max(1, round(pd.Timedelta(days=7) / step)) if step < pd.Timedelta(days=7) else 52
    name = offset.name.partition("-")[0]
    return max(1, _SEASONS.get(name, 1) // offset.n)

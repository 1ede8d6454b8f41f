"""The time grid of series: its frequency, and the place of every timestamp on it."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd

_DAY = pd.Timedelta(days=1)
_SEASONS = {"B": 5, "W": 52, "M": 12, "MS": 12, "ME": 12, "Q": 4, "QS": 4, "QE": 4}
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")


def infer_frequency(times: pd.DatetimeIndex, breaks: np.ndarray) -> str | None:
    """Return the pandas frequency of series, or None where there is no regular one.

    The most common distance between neighbours decides, so gaps do not hide it: months, quarters
    and years where all times are their first or last days, business days where no weekend
    occurs, else a fixed step.

    Args:
        times: `[T]`, sorted within each series, without a zone.
        breaks: bool `[T]`, True at the first row of a series.
    """
    steps = np.diff(times.asi8)[~breaks[1:]]
    steps = steps[steps > 0]
    if not len(steps):
        return None
    if (times == times.normalize()).all():
        calendar = _months(times, breaks) if steps.min() >= 28 * _DAY.value else None
        if calendar is not None:
            return calendar
        if (times.dayofweek < 5).all() and {_DAY.value, 3 * _DAY.value} <= set(steps.tolist()):
            return "B"
    common, share = _most_common(steps)
    if share < 0.5:
        return None
    return str(pd.tseries.frequencies.to_offset(pd.Timedelta(common)).freqstr)


def _months(times: pd.DatetimeIndex, breaks: np.ndarray) -> str | None:
    start = bool((times.day == 1).all())
    if not start and not times.is_month_end.all():
        return None
    number = times.year * 12 + times.month - 1
    step, _ = _most_common(np.diff(number)[~breaks[1:]])
    suffix = "S" if start else "E"
    if step not in (3, 12):
        return f"M{suffix}" if step == 1 else f"{step}M{suffix}"
    if len(set(number % step)) > 1:
        return None
    if step == 3:
        anchor = int(number[0]) % 3 + (0 if start else 9)
        return f"Q{suffix}-{_MONTHS[anchor]}"
    return f"Y{suffix}-{_MONTHS[int(number[0]) % 12]}"


def _most_common(steps: np.ndarray) -> tuple[int, float]:
    values, counts = np.unique(steps, return_counts=True)
    return int(values[counts.argmax()]), counts.max() / counts.sum()


def grid_positions(
    times: pd.DatetimeIndex, frequency: str, breaks: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the integer place of each time on its grid, int64 `[T]`, and which are off it.

    Places count within a series: fixed steps start at its first time, so series may be shifted
    against each other.

    Raises:
        ValueError: pandas does not know the frequency.
    """
    offset = pd.tseries.frequencies.to_offset(frequency)
    first = np.maximum.accumulate(np.where(breaks, np.arange(len(times)), 0))
    if isinstance(offset, pd.offsets.Tick):
        distance = times.asi8 - times.asi8[first]
        step = pd.Timedelta(offset).value
        return distance // step, distance % step != 0
    days, inverse = np.unique(times.normalize().to_numpy("datetime64[D]"), return_inverse=True)
    if isinstance(offset, pd.offsets.BusinessDay):
        off = ~np.is_busday(days)
        place = np.busday_count(np.datetime64("1970-01-01"), days)
    else:
        off = np.array([not offset.is_on_offset(pd.Timestamp(day)) for day in days])
        grid = pd.date_range(days[0], days[-1], freq=offset.base)
        place = np.searchsorted(grid.to_numpy("datetime64[D]"), days)
    distance = place[inverse] - place[inverse][first]
    return distance // offset.n, off[inverse] | (distance % offset.n != 0)


def later(
    times: pd.DatetimeIndex, steps: np.ndarray, frequency: str, timezone: str | None
) -> np.ndarray:
    """Return the grid times `steps` after `times`, datetime64[ns] `[N]`.

    With a zone, times are in UTC; steps of a day and more are taken on the zone's clock.
    """
    offset = pd.tseries.frequencies.to_offset(frequency)
    zone = None if is_sub_daily(frequency) else timezone
    clock = times if zone is None else times.tz_localize("UTC").tz_convert(zone).tz_localize(None)
    if isinstance(offset, pd.offsets.Tick):
        moved = pd.DatetimeIndex(clock.asi8 + steps * pd.Timedelta(offset).value)
    else:
        moved = pd.DatetimeIndex([t + int(n) * offset for t, n in zip(clock, steps, strict=True)])
    if zone is not None:
        summer = np.ones(len(moved), dtype=bool)
        local = moved.tz_localize(zone, ambiguous=summer, nonexistent="shift_forward")
        moved = local.tz_convert("UTC").tz_localize(None)
    return moved.to_numpy("datetime64[ns]")


def canonical_frequency(frequency: str) -> str:
    """Return the name pandas gives a frequency today; old names such as `H` are understood.

    Raises:
        ValueError: pandas does not know it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return str(pd.tseries.frequencies.to_offset(frequency).freqstr)


def is_sub_daily(frequency: str) -> bool:
    """Return whether steps are fixed and shorter than a day."""
    offset = pd.tseries.frequencies.to_offset(frequency)
    return isinstance(offset, pd.offsets.Tick) and pd.Timedelta(offset) < _DAY


def season_of(frequency: str) -> int:
    """Return the natural season in steps: a day of hours, a week of days, a year of months."""
    offset = pd.tseries.frequencies.to_offset(frequency)
    if isinstance(offset, pd.offsets.Tick):
        step = pd.Timedelta(offset)
        if step < _DAY:
            return max(1, round(_DAY / step))
        cycle = 7 * _DAY if step < 7 * _DAY else 364 * _DAY
        return max(1, round(cycle / step))
    name = offset.name.partition("-")[0]
    return max(1, _SEASONS.get(name, 1) // offset.n)

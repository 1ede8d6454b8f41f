"""Many series on one time grid, as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from domains.forecasting.data.frequency import later


@dataclass(frozen=True)
class Panel:
    """Series after another, each on its complete time grid.

    `T` is the number of rows of all series together, `S` of series, `C` of channels.
    """

    layout: Literal["wide", "long"]
    ids: tuple[str, ...]
    """Names of the series `[S]`; a wide file is one series called `""`."""
    channels: tuple[str, ...]
    values: np.ndarray
    """float64 `[T, C]` as in the file; NaN where missing."""
    past_covariates: np.ndarray
    """float64 `[T, K]`."""
    future_covariates: np.ndarray
    """float64 `[T, K']`."""
    times: np.ndarray
    """datetime64[ns] `[T]`; in UTC where there is a zone."""
    offsets: np.ndarray
    """int64 `[S + 1]`: rows of series s are `offsets[s]:offsets[s + 1]`."""
    frequency: str
    timezone: str | None
    time_column: str

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> np.ndarray:
        """Rows of each series, `[S]`."""
        return np.diff(self.offsets)

    @property
    def horizon_rows(self) -> np.ndarray:
        """Rows after the last observed target of each series: a horizon to forecast, bool `[T]`."""
        rows = np.arange(len(self.values))
        seen = np.where(np.isnan(self.values).all(axis=1), -1, rows)
        last = np.maximum.reduceat(seen, self.offsets[:-1]) if len(rows) else seen
        return rows > np.repeat(last, self.lengths)

    def local_times(self, times: np.ndarray | None = None) -> pd.DatetimeIndex:
        """Return `times` (default: all of the panel) in the panel's own zone."""
        index = pd.DatetimeIndex(self.times if times is None else times)
        return (
            index if self.timezone is None else index.tz_localize("UTC").tz_convert(self.timezone)
        )

    def future_times(self, series: int, steps: int) -> np.ndarray:
        """Return the `steps` times after the last one of a series, `[steps]`."""
        last = self.times[self.offsets[series + 1] - 1]
        start = pd.DatetimeIndex(np.full(steps, last))
        return later(start, np.arange(1, steps + 1), self.frequency, self.timezone)

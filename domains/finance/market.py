"""The best prices that forecasts are traded against."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from domains.finance.resampling import boundaries

_SECOND = 10**9


@dataclass(frozen=True)
class Market:
    """Level 1 of the book at every row of one or several series, each array `[M]`.

    Attributes:
        time: int64, nanoseconds.
        bid: best bid, NaN where there is none.
        ask: best ask, NaN where there is none.
        bid_size: shown size at the best bid; NaN where not known, which limits nothing.
        ask_size: shown size at the best ask.
        series: integers; the rows of a series lie together.
    """

    time: np.ndarray
    bid: np.ndarray
    ask: np.ndarray
    bid_size: np.ndarray
    ask_size: np.ndarray
    series: np.ndarray

    def __post_init__(self) -> None:
        shapes = {name: np.shape(value) for name, value in vars(self).items()}
        if len(set(shapes.values())) != 1 or len(shapes["time"]) != 1:
            raise ValueError(f"Market: expected arrays of one shape [M], got {shapes}")

    @classmethod
    def of(cls, source: Any) -> Market:
        """Return the market columns of `source`, such as a set of windows."""
        return cls(**{name: getattr(source, name) for name in cls.__dataclass_fields__})

    def __len__(self) -> int:
        return len(self.time)

    @cached_property
    def clocked(self) -> bool:
        """Whether times are of a clock; those of FI-2010 number its rows."""
        return len(self) > 0 and is_clock(int(self.time.max()))

    @cached_property
    def mid(self) -> np.ndarray:
        """Float64 `[M]`, NaN where a side is empty."""
        return (self.bid + self.ask) / 2

    @cached_property
    def spread(self) -> np.ndarray:
        """Float64 `[M]`, NaN where a side is empty."""
        return self.ask - self.bid

    @cached_property
    def tradeable(self) -> np.ndarray:
        """Bool `[M]`: both sides are quoted with size, and the bid is below the ask."""
        with np.errstate(invalid="ignore"):
            return (self.ask > self.bid) & ~(self.bid_size <= 0) & ~(self.ask_size <= 0)

    @cached_property
    def edges(self) -> np.ndarray:
        """First row of each series, and the number of rows."""
        return boundaries(self.series)

    @cached_property
    def last_tradeable(self) -> np.ndarray:
        """Int64 `[M]`: the latest tradeable row up to each row, -1 before the first of a series."""
        rows = np.arange(len(self))
        latest = np.maximum.accumulate(np.where(self.tradeable, rows, -1))
        first = np.repeat(self.edges[:-1], np.diff(self.edges))
        return np.where(latest >= first, latest, -1)

    def marked(self, values: np.ndarray) -> np.ndarray:
        """Return `values` at the latest tradeable row up to each row; 0 before the first."""
        return np.where(self.last_tradeable >= 0, values[self.last_tradeable], 0.0)


def is_clock(nanoseconds: int) -> bool:
    """Say whether a time is of a clock: where files have no times, rows are numbered instead."""
    return nanoseconds >= _SECOND

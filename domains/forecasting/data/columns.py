"""Which column of a table is what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pandas as pd

from domains.forecasting.data.config import DataConfig
from domains.forecasting.data.table import SERIES
from shared_runtime.errors import DataError

_TIMES = ("date", "ds", "time", "timestamp")


@dataclass(frozen=True)
class Columns:
    """Roles of the columns that are used."""

    layout: Literal["wide", "long"]
    time: str
    targets: tuple[str, ...]
    past: tuple[str, ...]
    future: tuple[str, ...]

    @property
    def values(self) -> tuple[str, ...]:
        """Columns of numbers: targets, past covariates, future covariates."""
        return (*self.targets, *self.past, *self.future)


def find_columns(frame: pd.DataFrame, config: DataConfig) -> Columns:
    """Return the roles that `config` gives the columns of a table.

    Raises:
        DataError: a column is not there.
    """
    names = list(frame.columns)
    long = config.format == "long" or (config.format == "auto" and {SERIES, "ds"} <= set(names))
    if long:
        time, default = "ds", ["y"]
    else:
        time = next((name for name in names if name.lower() in _TIMES), "date")
        covariates = {*config.past_covariates, *config.future_covariates}
        default = [name for name in names if name != time and name not in covariates]
    targets = config.targets or tuple(default)
    needed = [SERIES, time] if long else [time]
    wanted = [*needed, *targets, *config.past_covariates, *config.future_covariates]
    missing = [name for name in wanted if name not in names]
    if missing or not targets:
        what = f"no column {missing[0]!r}" if missing else "no column to forecast"
        kind = "long file has unique_id, ds, y" if long else "wide file has date and its channels"
        raise DataError(f"{config.path}: {what}; a {kind}, this one has {', '.join(names)}")
    used = {name for name in needed if name in wanted[len(needed) :]}
    if used:
        raise DataError(
            f"{config.path}: column {min(used)!r} names series or times; "
            "leave it out of data.targets and the covariates"
        )
    layout: Literal["wide", "long"] = "long" if long else "wide"
    return Columns(layout, time, targets, config.past_covariates, config.future_covariates)

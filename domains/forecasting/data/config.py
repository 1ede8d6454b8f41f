"""The `data:` section of a forecasting run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shared_runtime.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which data, how they are read, split and cut into windows.

    Raises:
        UsageError: a value is out of range, or two values contradict each other.
    """

    path: Path
    """CSV or Parquet file of series, or a UEA `.ts` training file."""
    test_path: Path | None = None
    """UEA test file; by default `X_TEST.ts` beside `X_TRAIN.ts`."""
    format: Literal["auto", "wide", "long", "uea"] = "auto"
    """`wide`: a `date` column and one column per channel; `long`: `unique_id, ds, y`."""
    targets: tuple[str, ...] = ()
    """Columns to forecast; empty is every numeric column (wide) or `y` (long)."""
    past_covariates: tuple[str, ...] = ()
    """Columns known up to the cut-off."""
    future_covariates: tuple[str, ...] = ()
    """Columns known over the horizon too."""
    lookback: int = 96
    """Steps a model sees."""
    horizon: int = 96
    """Steps to forecast."""
    quantiles: tuple[float, ...] = ()
    """Levels of a quantile forecast, ascending; empty is a point forecast."""
    split: Literal["auto", "ett_hour", "ett_minute", "fractions", "tail"] = "auto"
    """`ett_*`: the published 12/4/4 months; `fractions`: in time order; `tail`: the last
    cut-offs of every series. `auto`: by file name, `fractions` for wide, `tail` for long."""
    train_fraction: float = 0.7
    test_fraction: float = 0.2
    cutoffs: int = 1
    """Rolling cut-offs of validation and of test, for `tail`."""
    cutoff_step: int = 0
    """Steps between cut-offs, for `tail`; 0 is the horizon."""
    scale: Literal["standard", "none"] = "standard"
    """`standard`: zero mean, unit variance per channel and series, from the training part."""
    season: int = 0
    """Steps of the seasonal baseline and of MASE; 0 is the natural one of the frequency."""
    frequency: str = ""
    """Pandas frequency such as `h`, `15min`, `MS`; empty is inferred."""
    timezone: str = ""
    """Zone of naive timestamps, such as `Europe/Berlin`; resolves clock changes."""
    missing: Literal["error", "forward_fill", "mask"] = "error"
    """Missing values: refuse, carry the last value forward (never scored), or mask."""
    gaps: Literal["error", "insert"] = "error"
    """Missing timestamps: refuse, or insert as rows with missing values."""
    duplicates: Literal["error", "first", "last", "mean"] = "error"
    """Rows with the same series and time."""
    unsorted: Literal["error", "sort"] = "error"
    """Rows that go back in time."""
    short: Literal["error", "drop"] = "error"
    """Series too short for the split."""
    drop_last_compat: int = 0
    """Score as the published code does, leaving out the last partial batch of this size."""

    def __post_init__(self) -> None:
        for name in ("lookback", "horizon", "cutoffs"):
            self._at_least(name, 1)
        for name in ("cutoff_step", "season", "drop_last_compat"):
            self._at_least(name, 0)
        levels = self.quantiles
        if any(not 0 < q < 1 for q in levels) or list(levels) != sorted(set(levels)):
            raise UsageError(
                f"data.quantiles: expected ascending levels between 0 and 1, got {list(levels)}"
            )
        if not (self.train_fraction > 0 and self.test_fraction > 0) or (
            self.train_fraction + self.test_fraction >= 1
        ):
            raise UsageError(
                "data.train_fraction and data.test_fraction: expected positive with a sum below 1 "
                f"to leave a validation part, got {self.train_fraction} and {self.test_fraction}"
            )
        roles = (*self.targets, *self.past_covariates, *self.future_covariates)
        twice = sorted({name for name in roles if roles.count(name) > 1})
        if twice:
            raise UsageError(f"data: column {twice[0]!r} has two roles; give it one")

    def _at_least(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if value < least:
            raise UsageError(f"data.{name}: expected at least {least}, got {value}")

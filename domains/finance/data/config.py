"""The `data:` section of a finance run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shared_runtime.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which order books, how they are read, sampled, labelled, split and cut into windows.

    Raises:
        UsageError: a value is out of range, or two values contradict each other.
    """

    path: Path
    """Folder of LOBSTER pairs or FI-2010 files, or one file: LOBSTER message or order book,
    FI-2010 text, or a CSV or Parquet table of snapshots or diffs."""
    format: Literal["auto", "lobster", "fi2010", "snapshots", "diffs"] = "auto"
    columns: tuple[str, ...] = ()
    """Names of a table's columns as `ours=theirs`, such as `timestamp=E` or `bid_price_1=b1`."""
    levels: int = 10
    """Price levels of each side that are used."""
    tick: float = 0.0
    """Smallest price step; 0 is found from the data."""
    sample: Literal["event", "time", "volume", "mid"] = "event"
    """Rows that are kept: every n-th event, one each n seconds, each n units traded, or those at
    which the mid has moved n ticks."""
    every: float = 1.0
    """The n of `sample`."""
    features: Literal["relative", "book", "paper", "given"] = "relative"
    """`relative`: prices against the mid, order flow and recent moves; `book`: prices and sizes;
    `paper`: `book` and the six order features of TLOB; `given`: FI-2010's own 144 rows."""
    scale: Literal["auto", "standard", "rank"] = "auto"
    """`standard`: zero mean, unit variance, prices together and sizes together; `rank`: normal
    scores of ranks; both from the training part. `auto`: `rank` for `relative`."""
    lookback: int = 32
    """Rows a model sees."""
    horizon: int = 10
    """Rows ahead that the label looks."""
    label: Literal["tlob", "fi2010", "deeplob", "return", "given"] = "tlob"
    """`given`: FI-2010's own labels."""
    smoothing: int = 10
    """Rows k of the two means of the `tlob` label; its paper's form has k + 1 terms."""
    threshold: Literal["mean", "spread", "sigma", "tercile", "fixed"] = "mean"
    """How alpha is found, on the training part alone: half the mean absolute change, the mean
    spread over the mean mid, `alpha` standard deviations, terciles, or `alpha` itself."""
    alpha: float = 0.0
    """For `sigma`, standard deviations; for `fixed`, the relative change."""
    split: Literal["auto", "day", "time"] = "auto"
    """`day`: whole days; `time`: each day in time order; `auto`: `day` from ten days on."""
    validation_fraction: float = 0.1
    test_fraction: float = 0.2
    fee: float = 0.0
    """Basis points of the price paid for each trade and side, in the verdict."""
    latency: int = 1
    """Events between a forecast and the trade that it leads to."""
    signal: float = 0.0
    """Probability of up or down that is traded on; 0 trades whichever class is likeliest."""
    order_size: float = 1.0
    """Units of an order."""
    max_position: float = 0.0
    """Largest position either way; 0 is `order_size`."""
    min_hold: int = 1
    """Least number of events between orders."""
    on_stationary: Literal["hold", "close"] = "hold"
    """What a stationary forecast does to a position."""
    train_stride: int = 1
    """Rows between training windows; every window of the other parts is used."""

    def __post_init__(self) -> None:
        for name in ("levels", "lookback", "horizon", "train_stride", "min_hold"):
            self._at_least(name, 1)
        for name in ("smoothing", "tick", "alpha", "fee", "latency", "max_position"):
            self._at_least(name, 0)
        if not self.every > 0:
            raise UsageError(f"data.every: expected more than 0, got {self.every}")
        if not 0 <= self.signal < 1:
            raise UsageError(f"data.signal: expected 0 to below 1, got {self.signal}")
        if not self.order_size > 0:
            raise UsageError(f"data.order_size: expected more than 0, got {self.order_size}")
        parts = (self.validation_fraction, self.test_fraction)
        if min(parts) <= 0 or sum(parts) >= 1:
            raise UsageError(
                "data.validation_fraction and data.test_fraction: expected positive with a sum "
                f"below 1 to leave a training part, got {parts[0]} and {parts[1]}"
            )
        needs_alpha = self.threshold in ("sigma", "fixed")
        if needs_alpha != (self.alpha > 0):
            expected = "more than 0" if needs_alpha else "0"
            remedy = "set it too" if needs_alpha else "it is for data.threshold=sigma or fixed"
            raise UsageError(
                f"data.alpha: expected {expected} with data.threshold={self.threshold}, got "
                f"{self.alpha}; {remedy}"
            )
        for entry in self.columns:
            ours, equals, theirs = entry.partition("=")
            if not (ours and equals and theirs):
                raise UsageError(f"data.columns: expected ours=theirs, got {entry!r}")

    def _at_least(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if value < least:
            raise UsageError(f"data.{name}: expected at least {least}, got {value}")

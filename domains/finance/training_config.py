"""The `training:` section of a finance run."""

from __future__ import annotations

from dataclasses import dataclass

from shared_runtime.errors import UsageError
from shared_runtime.training_config import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class FinanceTraining(TrainingConfig):
    """Training settings with those of the cross-entropy of three classes."""

    label_smoothing: float = 0.0
    """Probability moved from the true class to all three alike."""
    balance: float = 0.0
    """Weight of a class is its share to the power of minus this: 0 weighs items alike, 1 gives
    the three classes the same weight in all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("label_smoothing", "balance"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise UsageError(f"training.{name}: expected 0 to 1, got {value}")

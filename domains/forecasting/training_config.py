"""The `training:` section of a forecasting run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shared_runtime.training_config import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class ForecastTraining(TrainingConfig):
    """Training settings with the loss of point forecasts.

    Quantile forecasts are trained with the pinball loss, classifiers with cross-entropy.
    """

    loss: Literal["mse", "mae", "huber"] = "mse"
    """On standardised values; `mae` resists outliers and often scores better in both metrics."""

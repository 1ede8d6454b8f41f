"""Lightning modules that train forecasters and classifiers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from domains.forecasting.inputs import forecaster_inputs
from domains.forecasting.losses import pinball_loss, point_loss
from shared_runtime.training import Task, TrainingConfig


class ForecastTask(Task):
    """Train a forecaster on standardised windows.

    Args:
        model: takes the keyword inputs of a batch, returns `[B, H, C, outputs]`.
        training: training settings.
        loss: `mse`, `mae` or `huber`; for point forecasts.
        quantiles: levels of a quantile forecast, one for each output; empty for a point forecast.
    """

    def __init__(
        self,
        model: nn.Module,
        training: TrainingConfig,
        *,
        loss: str = "mse",
        quantiles: Sequence[float] = (),
    ) -> None:
        super().__init__(model, training)
        self.point_loss = loss
        self.quantiles = tuple(quantiles)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the mean loss over the valid entries of the batch."""
        forecast = self.model(**forecaster_inputs(batch))
        target, valid = batch["future"], batch.get("future_valid")
        if self.quantiles:
            return pinball_loss(forecast, target, valid, self.quantiles)
        return point_loss(forecast, target, valid, self.point_loss)


class ClassifyTask(Task):
    """Train a classifier of series with cross-entropy."""

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the mean cross-entropy of the batch."""
        return functional.cross_entropy(self.model(batch["x"], batch["valid"]), batch["label"])

"""The Lightning module that trains trend models."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from shared_runtime.training import Task, TrainingConfig


class TrendTask(Task):
    """Train a classifier of the next move with cross-entropy.

    Args:
        model: takes `x` `[B, T, F]`, returns logits `[B, 3]`.
        training: training settings.
        label_smoothing: probability moved from the true class to all three alike.
        class_weights: weight of each class, `[3]`; None weighs items alike.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        model: nn.Module,
        training: TrainingConfig,
        *,
        label_smoothing: float = 0.0,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__(model, training)
        self.label_smoothing = label_smoothing
        self.register_buffer("class_weights", class_weights, persistent=False)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the mean cross-entropy of the batch."""
        return functional.cross_entropy(
            self.model(batch["x"]),
            batch["label"],
            weight=self.class_weights,
            label_smoothing=self.label_smoothing,
        )


def class_weights(shares: tuple[float, ...], balance: float) -> Tensor | None:
    """Return weights share^-balance with mean 1 over items; None where all are alike."""
    if balance == 0:
        return None
    share = torch.tensor(shares, dtype=torch.float64)
    weight = share.clamp(min=1e-3) ** -balance
    return (weight / (weight * share).sum()).float()

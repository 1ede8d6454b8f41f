"""The `training:` section of a medical run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shared_runtime.training_config import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class MedicalTraining(TrainingConfig):
    """Training settings with the loss of segmentation models."""

    epochs: int = 50
    batch_size: int = 2
    patience: int = 0
    learning_rate: float = 1e-3
    loss: Literal["dice_ce", "dice_focal", "dice_ce_boundary", "cross_entropy"] = "dice_ce"
    """Dice with cross-entropy, Dice with focal loss, Dice with cross-entropy and a distance
    transform of the boundary, or cross-entropy alone; models with a loss of their own use that."""
    batch_dice: bool = False
    """Whether Dice is taken over the batch as one item, which helps where patches lack classes."""

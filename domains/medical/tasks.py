"""The Lightning module that trains segmentation models."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from domains.medical.losses import criterion, supervised
from domains.medical.models.output import SegmentationOutput
from domains.medical.models.parts.convolutions import mend_convolutions
from domains.medical.training_config import MedicalTraining
from shared_runtime.training import Task


class SegmentationTask(Task):
    """Train a model on patches; the validation loss is that of its prediction alone.

    Args:
        model: takes `image` `[B, C, *grid]`, returns logits `[B, K, *grid]`. One with `outputs`
            gives a `SegmentationOutput` for training; one with `loss_terms` says its own loss.
        training: training settings.
    """

    def __init__(self, model: nn.Module, training: MedicalTraining) -> None:
        mend_convolutions(model)
        super().__init__(model, training)
        self.criterion = criterion(training.loss, batch_dice=training.batch_dice)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the mean loss of the batch."""
        image, label = batch["image"], batch["label"]
        outputs = getattr(self.model, "outputs", None)
        if outputs is None or not self.training:
            return self.criterion(self.model(image), label)
        output: SegmentationOutput = outputs(image)
        loss_terms = getattr(self.model, "loss_terms", None)
        if loss_terms is None:
            return supervised(output, label, self.criterion)
        return torch.stack(list(loss_terms(output, label).values())).sum()

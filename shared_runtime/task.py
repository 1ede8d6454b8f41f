"""The Lightning module every domain's training task extends."""

from __future__ import annotations

import math
from abc import abstractmethod
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RAdam
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from shared_runtime.errors import HeedError
from shared_runtime.training_config import TrainingConfig

Batch = dict[str, Tensor]

_OPTIMIZERS: dict[str, type[Optimizer]] = {
    "adam": Adam,
    "adamw": AdamW,
    "radam": RAdam,
    "sgd": SGD,
}


class TrainingError(HeedError):
    """Training cannot go on; the last good checkpoint is kept."""


class Task(LightningModule):
    """Train `model`; a subclass says what the loss of a batch is.

    `train_loss` and `val_loss` are means over items, a partial last batch counted by its size.

    Args:
        model: The module that is trained and saved.
        training: Optimiser, schedule and the rest of the training settings.
    """

    def __init__(self, model: nn.Module, training: TrainingConfig) -> None:
        super().__init__()
        self.model = model
        self.training_config = training
        self._sums = {"train": torch.zeros(2), "val": torch.zeros(2)}

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """Return the mean loss over the items of `batch`, a scalar."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of one batch; stop before a step on one that is not finite."""
        loss = self.loss(batch)
        if not torch.isfinite(loss):
            raise TrainingError(self._not_finite(loss))
        self._add("train", loss, batch)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add one batch to the validation loss."""
        self._add("val", self.loss(batch), batch)

    def on_train_epoch_start(self) -> None:
        """Start the epoch's mean loss."""
        self._sums["train"] = self._zero()

    def on_validation_epoch_start(self) -> None:
        """Start the validation loss."""
        self._sums["val"] = self._zero()

    def on_validation_epoch_end(self) -> None:
        """Offer `val_loss` to callbacks."""
        self.log("val_loss", self.mean_loss("val"), sync_dist=True)

    def on_train_epoch_end(self) -> None:
        """Offer `train_loss` to callbacks."""
        self.log("train_loss", self.mean_loss("train"), sync_dist=True)

    def mean_loss(self, part: str) -> float:
        """Return this epoch's mean loss over the items of `part` ("train" or "val")."""
        total, items = self._all_sums(part).tolist()
        return total / items if items else math.nan

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the running sum, so that a resumed epoch reports the same mean."""
        checkpoint["train_sums"] = self._all_sums("train").cpu()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the running sum again."""
        sums = checkpoint["train_sums"].to(self.device)
        self._sums["train"] = sums if self.trainer.is_global_zero else torch.zeros_like(sums)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimiser and the schedule of the training settings, stepped every step."""
        config = self.training_config
        optimizer = _OPTIMIZERS[config.optimizer](
            self.parameters(),
            lr=config.learning_rate,  # type: ignore[call-arg]
            weight_decay=config.weight_decay,
        )
        total = int(self.trainer.estimated_stepping_batches)
        scheduler: LRScheduler
        if config.schedule == "one_cycle":
            cycle_momentum = config.optimizer != "sgd"
            scheduler = OneCycleLR(
                optimizer, config.learning_rate, total, cycle_momentum=cycle_momentum
            )
        else:
            scheduler = LambdaLR(
                optimizer, partial(schedule_factor, config=config, total_steps=total)
            )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def _add(self, part: str, loss: Tensor, batch: Batch) -> None:
        items = len(next(iter(batch.values())))
        detached = loss.detach().double()
        self._sums[part] += torch.stack((detached * items, detached.new_tensor(items)))

    def _zero(self) -> Tensor:
        return torch.zeros(2, dtype=torch.float64, device=self.device)

    def _all_sums(self, part: str) -> Tensor:
        sums = self._sums[part].clone()
        reduced = self.trainer.strategy.reduce(sums, reduce_op="sum")
        return reduced if isinstance(reduced, Tensor) else sums

    def _not_finite(self, loss: Tensor) -> str:
        loader = self.trainer.train_dataloader
        items = getattr(loader, "indices", None)
        where = "" if items is None else f" on training items {_shorten(items.tolist())}"
        return (
            f"the loss became {loss.item()} in epoch {self.current_epoch + 1}, "
            f"step {self.global_step + 1}{where}; look at these items, or lower "
            "training.learning_rate or set training.clip_norm"
        )


def schedule_factor(step: int, *, config: TrainingConfig, total_steps: int) -> float:
    """Return what the learning rate is multiplied with at `step`.

    `halve` halves it after each epoch; `cosine` goes to 0 at the last step along half a cosine
    (Loshchilov & Hutter 2017, "SGDR", equation 5, one period).
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "halve":
        return 0.5 ** (step * config.epochs // total_steps)
    if config.schedule == "cosine":
        rest = max(1, total_steps - config.warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - config.warmup_steps) / rest)))
    return 1.0


def _shorten(items: list[int], most: int = 8) -> str:
    shown = ", ".join(str(item) for item in items[:most])
    return shown if len(items) <= most else f"{shown}, ... ({len(items)} in all)"

"""Epoch by epoch: history, early stopping, and the weights that are kept."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from shared_runtime.averaging import MovingAverage
from shared_runtime.task import Task, TrainingError

_log = logging.getLogger("heed.training")
_MODEL = "model."


class Selection(Callback):
    """Keep the weights of the epoch with the lowest validation loss, and stop when it stays away.

    Its state is part of the checkpoint, so a resumed run selects and stops as an uninterrupted one.

    Args:
        patience: Epochs without a lower validation loss before training stops; 0 never stops.
        keep_best: Keep a copy of the best epoch's weights.
        on_epoch: Called with the whole history after each epoch, in the first process only.
        average: What stands in for the weights; None keeps the weights themselves.
    """

    def __init__(
        self,
        *,
        patience: int,
        keep_best: bool,
        on_epoch: Callable[[list[dict[str, float]]], object],
        average: MovingAverage | None = None,
    ) -> None:
        self.history: list[dict[str, float]] = []
        self.best_epoch = 0
        self.weights: dict[str, Tensor] = {}
        self.finished = False
        self._patience = patience
        self._keep_best = keep_best
        self._on_epoch = on_epoch
        self._average = average
        self._started = time.monotonic()
        self._learning_rate = math.nan

    def state_dict(self) -> dict[str, Any]:
        """Return history and the weights selected so far."""
        return {
            "history": self.history,
            "best_epoch": self.best_epoch,
            "weights": self.weights,
            "finished": self.finished,
            "learning_rate": self._learning_rate,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up history and selection again."""
        self.history = state_dict["history"]
        self.best_epoch = state_dict["best_epoch"]
        self.weights = state_dict["weights"]
        self.finished = state_dict["finished"]
        self._learning_rate = state_dict["learning_rate"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of an epoch that goes on in its middle."""
        self._started = time.monotonic()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the epoch's clock and its order of items."""
        self._started = time.monotonic()
        self._learning_rate = trainer.optimizers[0].param_groups[0]["lr"]
        loader = trainer.train_dataloader
        assert loader is not None
        loader.set_epoch(trainer.current_epoch)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the epoch down, select, and decide whether to stop."""
        assert isinstance(pl_module, Task)
        row = {
            "epoch": trainer.current_epoch + 1,
            "train_loss": pl_module.mean_loss("train"),
            "val_loss": pl_module.mean_loss("val"),
            "learning_rate": self._learning_rate,
            "seconds": round(time.monotonic() - self._started, 3),
        }
        if not math.isfinite(row["val_loss"]):
            raise TrainingError(
                f"the validation loss became {row['val_loss']} in epoch {row['epoch']}; "
                "lower training.learning_rate or set training.clip_norm"
            )
        self.history.append(row)
        best = min(self.history, key=lambda past: past["val_loss"])
        self.best_epoch = int(best["epoch"])
        last = row["epoch"] == trainer.max_epochs
        if self._patience and row["epoch"] - self.best_epoch >= self._patience:
            trainer.should_stop = True
        self.finished = last or trainer.should_stop
        if best is row if self._keep_best else self.finished:
            self.weights = _model_weights(trainer)
            if self._average is not None:
                self.weights |= {n: _copy(value) for n, value in self._average.weights.items()}
        if trainer.is_global_zero:
            self._on_epoch(self.history)
            _log.info(
                "epoch %d: train_loss %.6g, val_loss %.6g%s, %.1f s",
                row["epoch"],
                row["train_loss"],
                row["val_loss"],
                " (best)" if best is row else "",
                row["seconds"],
            )


def _model_weights(trainer: Trainer) -> dict[str, Tensor]:
    """Copy the model's weights to the CPU; whole, where the strategy shards them."""
    state = trainer.strategy.lightning_module_state_dict()
    return {
        name.removeprefix(_MODEL): _copy(value)
        for name, value in state.items()
        if name.startswith(_MODEL) and isinstance(value, torch.Tensor)
    }


def _copy(value: Tensor) -> Tensor:
    return value.detach().to("cpu", copy=True)

"""A progress bar on stderr; nothing where stderr is not a terminal."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.types import STEP_OUTPUT
from tqdm import tqdm  # type: ignore[import-untyped]


class ProgressLine(Callback):
    """One bar over all steps of the run, with the epoch and the last validation loss."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the bar at the place where training starts or goes on."""
        per_epoch = int(trainer.num_training_batches)
        done = trainer.fit_loop.epoch_loop.batch_progress.current.completed
        self._bar = tqdm(
            total=per_epoch * (trainer.max_epochs or 1),
            initial=per_epoch * trainer.current_epoch + done,
            unit="step",
            dynamic_ncols=True,
            disable=None if trainer.is_global_zero else True,
        )

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Move on by one step."""
        if self._bar is not None:
            self._bar.update()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the epoch and its validation loss."""
        if self._bar is not None:
            val_loss = float(trainer.callback_metrics.get("val_loss", float("nan")))
            self._bar.set_postfix(epoch=trainer.current_epoch + 1, val_loss=f"{val_loss:.4g}")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the terminal on a fresh line, whatever ended the training."""
        if self._bar is not None:
            self._bar.close()

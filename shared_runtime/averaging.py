"""An exponential moving average of the weights, validated and kept in their place."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor

from shared_runtime.task import Task


class MovingAverage(Callback):
    """Follow the parameters of a task's model after every step; stand in for them in validation.

    The average after step n is `d` times the one before plus `1 - d` times the weights, with
    `d = min(decay, (1 + n) / (10 + n))`, so that it forgets the start. Buffers are not averaged.
    Its state is part of the checkpoint.

    Args:
        decay: Share of the average that a step keeps, below 1.
    """

    def __init__(self, decay: float) -> None:
        self.weights: dict[str, Tensor] = {}
        self._decay = decay
        self._steps = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the average and the number of steps in it."""
        return {"weights": self.weights, "steps": self._steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the average again."""
        self.weights, self._steps = state_dict["weights"], state_dict["steps"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with the weights that training begins with."""
        parameters = _parameters(pl_module)
        for name, value in parameters.items():
            seen = self.weights.get(name, value)
            self.weights[name] = seen.detach().to(value.device, copy=True)

    @torch.no_grad()
    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Add the weights after an optimiser step."""
        done = batch_idx + 1
        if done % trainer.accumulate_grad_batches and done != trainer.num_training_batches:
            return
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        parameters = _parameters(pl_module)
        averages = [self.weights[name] for name in parameters]
        torch._foreach_lerp_(averages, list(parameters.values()), 1 - decay)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the average in the place of the weights."""
        self._exchange(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the weights back."""
        self._exchange(pl_module)

    def _exchange(self, pl_module: LightningModule) -> None:
        for name, parameter in _parameters(pl_module).items():
            parameter.data, self.weights[name] = self.weights[name], parameter.data


def _parameters(pl_module: LightningModule) -> dict[str, torch.nn.Parameter]:
    assert isinstance(pl_module, Task)
    return dict(pl_module.model.named_parameters())

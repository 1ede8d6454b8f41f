"""The `training:` section of a configuration. Imports no torch, so help texts stay fast."""

from __future__ import annotations

import typing
from dataclasses import dataclass, fields
from typing import Literal

from shared_runtime.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a model is trained; the same for every domain.

    Raises:
        UsageError: A value is out of range, or two values contradict each other.
    """

    epochs: int = 10
    batch_size: int = 32
    """Items per step and device."""
    eval_batch_size: int = 0
    """Items per validation batch; 0 is `batch_size`."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    weight_decay: float = 0.0
    optimizer: Literal["adam", "adamw", "radam", "sgd"] = "adam"
    schedule: Literal["constant", "halve", "cosine", "one_cycle"] = "constant"
    """`halve` halves the learning rate after each epoch, as Informer and Autoformer do."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises linearly from 0; `one_cycle` has its own."""
    patience: int = 3
    """Epochs without a better validation loss before training stops; 0 never stops early."""
    select: Literal["best", "last"] = "best"
    """Which epoch's weights are kept; `best` looks at the validation loss only."""
    clip_norm: float = 0.0
    """Largest gradient norm; 0 does not clip."""
    average: float = 0.0
    """Decay of an exponential moving average of the weights, such as 0.999, that is validated and
    kept in their place; 0 keeps the weights themselves."""
    accumulate: int = 1
    """Batches whose gradients are added up before a step."""
    precision: Literal["32", "bf16-mixed", "16-mixed"] = "32"
    checkpoint_every: int = 0
    """Steps between checkpoints; 0 saves every 30 s and after each epoch."""
    devices: int = 1
    """Devices on each machine."""
    nodes: int = 1
    """Machines."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "devices", "nodes"):
            self._at_least(name, 1)
        for name in (
            "eval_batch_size",
            "weight_decay",
            "warmup_steps",
            "patience",
            "clip_norm",
            "checkpoint_every",
        ):
            self._at_least(name, 0)
        if not self.learning_rate > 0:
            raise UsageError(
                f"training.learning_rate: expected more than 0, got {self.learning_rate}"
            )
        if not 0 <= self.average < 1:
            raise UsageError(f"training.average: expected 0 to below 1, got {self.average}")
        hints = typing.get_type_hints(type(self))
        for field in fields(self):
            choices = typing.get_args(hints[field.name])
            value = getattr(self, field.name)
            if choices and value not in choices:
                expected = ", ".join(choices)
                raise UsageError(
                    f"training.{field.name}: expected one of {expected}, got {value!r}"
                )
        if self.schedule == "one_cycle" and self.warmup_steps:
            raise UsageError(
                "training.warmup_steps: one_cycle warms up by itself; set warmup_steps to 0"
            )

    def _at_least(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if not value >= least:
            raise UsageError(f"training.{name}: expected at least {least}, got {value}")

"""`last.ckpt`: everything a run needs to go on as if it had never stopped.

A Lightning checkpoint holds weights, optimiser, schedule, gradient scaler and loop counters. It
holds no random states, so a resumed run draws other dropout masks, and it forgets the position in
the data where a schedule asks for the number of steps (the loaders are then set up before their
state is read). :class:`Checkpointer` adds both, and takes checkpoints only between optimiser steps
or after a whole epoch, where Lightning's counters can be restored.
"""

from __future__ import annotations

import random
import time
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.types import STEP_OUTPUT

from shared_runtime.errors import HeedError, Interrupted, UsageError
from shared_runtime.files import replacing
from shared_runtime.interruption import Interruption
from shared_runtime.loader import BatchLoader
from shared_runtime.task import TrainingError

_SECONDS_BETWEEN = 30.0
_COST_FACTOR = 50.0


class Checkpointer(Checkpoint):
    """Save `path` from time to time, at interruption, and when training ends.

    Args:
        path: The checkpoint file.
        loader: Training loader, whose position is saved.
        every: Steps between checkpoints; 0 goes by time, so that saving costs below 2 %.
        identity: Flat settings that a resumed run must share, by name.
        seed: Seed of the random states of a new run.
        interruption: Tells whether a signal asked training to stop.
    """

    def __init__(
        self,
        path: Path,
        *,
        loader: BatchLoader,
        every: int,
        identity: dict[str, Any],
        seed: int,
        interruption: Interruption,
    ) -> None:
        self._path = path
        self._loader = loader
        self._every = every
        self._identity = identity
        self._seed = seed
        self._interruption = interruption
        self._restored: dict[str, Any] | None = None
        self._saved_at = time.monotonic()
        self._cost = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return the random states of every process and what the run is."""
        return {
            "identity": self._identity,
            "threads": torch.get_num_threads(),
            "position": self._loader.state_dict(),
            "random": _of_every_process(random_state()),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until the moment training starts."""
        self._restored = state_dict

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin from the seed, or take up position and random states again."""
        if self._restored is None:
            seed_everything(self._seed, trainer.global_rank)
            return
        torch.set_num_threads(self._restored["threads"])
        self._loader.load_state_dict(self._restored["position"])
        set_random_state(self._restored["random"][trainer.global_rank])
        self._restored = None

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save between two steps; the last batch waits for the validation that follows it."""
        done = batch_idx + 1
        if done % trainer.accumulate_grad_batches or done == trainer.num_training_batches:
            return
        stop = self._anywhere(trainer, self._interruption.requested)
        if stop or self._anywhere(trainer, self._due(trainer.global_step)):
            self._save(trainer)
        if stop:
            raise Interrupted(self._stopped(trainer))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after an epoch; always after the last one."""
        last = trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs
        stop = self._anywhere(trainer, self._interruption.requested)
        since = time.monotonic() - self._saved_at
        if last or stop or self._anywhere(trainer, bool(self._every) or since >= self._pause()):
            self._save(trainer)
        if stop and not last:
            raise Interrupted(self._stopped(trainer))

    def _due(self, step: int) -> bool:
        if self._every:
            return step % self._every == 0
        return time.monotonic() - self._saved_at >= max(_SECONDS_BETWEEN, self._pause())

    def _pause(self) -> float:
        return _COST_FACTOR * self._cost

    @staticmethod
    def _anywhere(trainer: Trainer, flag: bool) -> bool:
        return trainer.strategy.reduce_boolean_decision(flag, all=False)

    def _save(self, trainer: Trainer) -> None:
        start = time.monotonic()
        for name, parameter in trainer.lightning_module.named_parameters():
            if not torch.isfinite(parameter).all():
                raise TrainingError(
                    f"weights {name} are no longer finite after step {trainer.global_step}; "
                    f"{self._path} still holds the last good state; lower "
                    "training.learning_rate or set training.clip_norm"
                )
        trainer.save_checkpoint(self._path)
        self._saved_at = time.monotonic()
        self._cost = self._saved_at - start

    def _stopped(self, trainer: Trainer) -> str:
        return (
            f"interrupted in epoch {trainer.current_epoch + 1} after step {trainer.global_step}; "
            f"saved in {self._path}; the same command with --resume continues from there"
        )


class WholeFileIO(TorchCheckpointIO):
    """Lightning's checkpoint files, written whole or not at all and read without pickled code."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write `checkpoint` beside `path`, then put it in its place."""
        with replacing(Path(path)) as partial:
            torch.save(checkpoint, partial)

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read what :meth:`save_checkpoint` wrote."""
        return read_checkpoint(Path(path))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        HeedError: The file is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is None:
            return torch.load(path, map_location="cpu", weights_only=True)
    except (zipfile.BadZipFile, EOFError, RuntimeError, UnpicklingError, ValueError) as error:
        raise HeedError(_damaged(path)) from error
    raise HeedError(_damaged(path))


def _damaged(path: Path) -> str:
    return f"{path}: the checkpoint is damaged; start again with another --out"


def check_identity(path: Path, saved: dict[str, Any], asked: dict[str, Any]) -> None:
    """Refuse to continue a run with other settings than its own.

    Raises:
        UsageError: Names each setting that differs.
    """
    different = [
        f"{key} (was {saved.get(key)!r}, now {asked.get(key)!r})"
        for key in sorted({*saved, *asked})
        if saved.get(key) != asked.get(key)
    ]
    if different:
        raise UsageError(
            f"cannot resume {path.parent}: {', '.join(different)} changed; "
            "ask for the same settings, or train anew with another --out"
        )


def seed_everything(seed: int, rank: int = 0) -> None:
    """Seed torch, numpy and python's `random`, differently for each process."""
    words = np.random.SeedSequence([seed, rank]).generate_state(2, dtype=np.uint32)
    torch.manual_seed(int(words[0]))
    np.random.seed(words[1])
    random.seed(int(words[1]))


def random_state() -> dict[str, Any]:
    """Return every global random state as tensors and plain values."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": (name, np.asarray(keys).tolist(), position, has_gauss, gauss),
        "python": random.getstate(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what :func:`random_state` returned."""
    torch.set_rng_state(state["torch"])
    np.random.set_state(state["numpy"])
    random.setstate(state["python"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def _of_every_process(state: dict[str, Any]) -> list[dict[str, Any]]:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [state]
    states: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(states, state)
    return states

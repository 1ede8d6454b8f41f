"""Training a task with Lightning so that it can be interrupted and resumed exactly."""

from __future__ import annotations

import copy
import logging
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from shared_runtime.averaging import MovingAverage
from shared_runtime.checkpoint import (
    Checkpointer,
    WholeFileIO,
    check_identity,
    read_checkpoint,
)
from shared_runtime.domain import Prepared
from shared_runtime.errors import DataError, Interrupted, UsageError
from shared_runtime.interruption import Interruption
from shared_runtime.loader import BatchLoader
from shared_runtime.memory import keep_freed_memory
from shared_runtime.progress import ProgressLine
from shared_runtime.run_folder import RunFolder
from shared_runtime.selection import Selection
from shared_runtime.task import Task, TrainingError
from shared_runtime.training_config import TrainingConfig

__all__ = ["FitResult", "Task", "TrainingConfig", "TrainingError", "fit"]

_NVML_CHECK = "PYTORCH_NVML_BASED_CUDA_CHECK"
_NOT_PART_OF_A_RUN = {"checkpoint_every"}


@dataclass(frozen=True)
class FitResult:
    """What training gave; the task's model already has the selected weights."""

    history: list[dict[str, float]]
    """One row per epoch: epoch (from 1), train_loss, val_loss, learning_rate, seconds."""
    best_epoch: int
    """Epoch with the lowest validation loss, from 1."""
    selected_epoch: int
    """Epoch whose weights are kept, from 1."""
    seconds: float
    """Wall time of this call."""


def fit(
    task: Task,
    prepared: Prepared,
    training: TrainingConfig,
    folder: RunFolder,
    *,
    seed: int,
    device: torch.device,
    resume: bool = False,
    progress: bool = True,
) -> FitResult:
    """Train `task` on `prepared.train`, select on `prepared.val`, and keep the selected weights.

    The run can be killed at any moment: with `resume=True` the same call goes on from
    `last.ckpt` and, on a CPU, ends with the same weights and history bit for bit. Under several
    processes all but the first end here; only the first returns. Use `task.model` afterwards: where
    the strategy shards the model in place, it is a whole copy.

    Args:
        task: What is trained; its model has the selected weights afterwards.
        prepared: Data; `prepared.test` is not touched.
        training: Training settings.
        folder: Run folder that gets `last.ckpt` and `history.csv`.
        seed: Decides the order of the data and every random draw of training.
        device: Kind of device to train on.
        resume: Continue from `last.ckpt` where there is one.
        progress: Show a bar on stderr where it is a terminal.

    Raises:
        DataError: The training or validation part is empty.
        UsageError: The settings do not fit the device, or differ from the run to resume.
        TrainingError: The loss or the weights stopped being finite.
        Interrupted: A signal stopped training after a checkpoint.
    """
    start = time.monotonic()
    keep_freed_memory()
    _check(prepared, training, device)
    identity = _identity(training, seed, prepared)
    average = MovingAverage(training.average) if training.average else None
    selection = Selection(
        patience=training.patience,
        keep_best=training.select == "best",
        on_epoch=lambda history: folder.write_rows("history.csv", history),
        average=average,
    )
    path = folder.path / "last.ckpt"
    whole = copy.deepcopy(task.model) if training.strategy == "fsdp" else task.model
    saved = read_checkpoint(path) if resume and path.exists() else None
    if saved is not None:
        check_identity(path, saved["callbacks"]["Checkpointer"]["identity"], identity)
        selection.load_state_dict(saved["callbacks"]["Selection"])
    if not selection.finished:
        with Interruption() as interruption, _quiet(), _cheap_cuda_check(device):
            loaders = _loaders(prepared, training, seed)
            checkpointer = Checkpointer(
                path,
                loader=loaders[0],
                every=training.checkpoint_every,
                identity=identity,
                seed=seed,
                interruption=interruption,
            )
            bars: list[Callback] = [ProgressLine()] if progress else []
            averaging: list[Callback] = [] if average is None else [average]
            callbacks = [*averaging, selection, *bars, checkpointer]
            trainer = _trainer(training, device, folder.path, callbacks)
            try:
                trainer.fit(task, *loaders, ckpt_path=path if saved is not None else None)
            except SIGTERMException as error:
                raise Interrupted(
                    f"interrupted; {path} holds the last state; "
                    "the same command with --resume continues from there"
                ) from error
            _leave_process_group(trainer)
    if saved is not None:
        folder.write_rows("history.csv", selection.history)
    task.model = whole
    task.model.load_state_dict(selection.weights)
    best = selection.best_epoch
    return FitResult(
        history=selection.history,
        best_epoch=best,
        selected_epoch=best if training.select == "best" else len(selection.history),
        seconds=time.monotonic() - start,
    )


def _trainer(
    training: TrainingConfig, device: torch.device, folder: Path, callbacks: list[Callback]
) -> Trainer:
    return Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=training.devices,
        num_nodes=training.nodes,
        strategy=training.strategy,
        precision=training.precision,
        max_epochs=training.epochs,
        accumulate_grad_batches=training.accumulate,
        gradient_clip_val=training.clip_norm or None,
        callbacks=callbacks,
        plugins=[WholeFileIO()],
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )


def _loaders(
    prepared: Prepared, training: TrainingConfig, seed: int
) -> tuple[BatchLoader, BatchLoader]:
    evaluated = training.eval_batch_size or training.batch_size
    return (
        BatchLoader(prepared.train, training.batch_size, seed=seed, shuffle=True),
        BatchLoader(prepared.val, evaluated, seed=seed, shuffle=False),
    )


def _check(prepared: Prepared, training: TrainingConfig, device: torch.device) -> None:
    for name in ("train", "val"):
        if not len(getattr(prepared, name)):
            raise DataError(f"the {name} part has no items; give longer data or other splits")
    if training.precision == "16-mixed" and device.type != "cuda":
        raise UsageError("training.precision: 16-mixed needs CUDA; use bf16-mixed or 32")
    if device.type == "cuda" and training.devices > torch.cuda.device_count():
        raise UsageError(
            f"training.devices: got {training.devices}, "
            f"this machine has {torch.cuda.device_count()} CUDA devices"
        )
    if training.strategy == "fsdp" and device.type != "cuda":
        raise UsageError("training.strategy: fsdp needs CUDA; use ddp or auto")
    if training.strategy == "fsdp" and training.average:
        raise UsageError("training.average: weights sharded by fsdp are not averaged; use ddp")


def _identity(training: TrainingConfig, seed: int, prepared: Prepared) -> dict[str, Any]:
    settings = {
        f"training.{name}": value
        for name, value in asdict(training).items()
        if name not in _NOT_PART_OF_A_RUN
    }
    return {**settings, "seed": seed, "data": prepared.data_hash}


def _leave_process_group(trainer: Trainer) -> None:
    """End every process but the first, which goes on alone."""
    if not torch.distributed.is_initialized():
        return
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    if not trainer.is_global_zero:
        raise SystemExit(0)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's notices about its own settings out of the command's output."""
    logs = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="GPU available but not used")
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


@contextmanager
def _cheap_cuda_check(device: torch.device) -> Iterator[None]:
    """Undo a setting of Lightning's that makes every optimiser step on a CPU open NVML anew.

    With it, `torch.cuda.is_available()`, which torch's optimisers call at each step, takes some
    75 us instead of 1 us where there is no GPU. It serves processes forked after CUDA has started;
    training on a CPU has none.
    """
    before = os.environ.get(_NVML_CHECK)
    if device.type != "cpu" or before is None:
        yield
        return
    del os.environ[_NVML_CHECK]
    try:
        yield
    finally:
        os.environ[_NVML_CHECK] = before

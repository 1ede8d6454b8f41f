"""What every domain does the same way: run folder, training, prediction, artifacts, reports."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from shared_runtime.errors import (
    BatchFailures,
    DataError,
    HeedError,
    Interrupted,
    UsageError,
    require,
)

if TYPE_CHECKING:
    from shared_runtime.artifact import load_model, save_model
    from shared_runtime.devices import resolve_device
    from shared_runtime.intervals import mean_interval
    from shared_runtime.loader import BatchLoader
    from shared_runtime.run_folder import RunFolder
    from shared_runtime.training import FitResult, Task, TrainingConfig, TrainingError, fit

__all__ = [
    "BatchFailures",
    "BatchLoader",
    "DataError",
    "FitResult",
    "HeedError",
    "Interrupted",
    "RunFolder",
    "Task",
    "TrainingConfig",
    "TrainingError",
    "UsageError",
    "fit",
    "load_model",
    "mean_interval",
    "require",
    "resolve_device",
    "save_model",
]

_HOMES = {
    "BatchLoader": "loader",
    "FitResult": "training",
    "RunFolder": "run_folder",
    "Task": "task",
    "TrainingConfig": "training_config",
    "TrainingError": "task",
    "fit": "training",
    "load_model": "artifact",
    "mean_interval": "intervals",
    "resolve_device": "devices",
    "save_model": "artifact",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""Errors that end a command with one line and a documented exit code."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import ClassVar


class HeedError(ValueError):
    """Something the user can act on: one clear line, and the exit code of the command."""

    exit_code: ClassVar[int] = 1


class UsageError(HeedError):
    """The command, an option or the configuration is wrong."""

    exit_code: ClassVar[int] = 2


class DataError(HeedError):
    """The data failed their checks."""

    exit_code: ClassVar[int] = 3


class BatchFailures(HeedError):
    """Some items of a batch failed; the others were written."""

    exit_code: ClassVar[int] = 4


class Interrupted(HeedError):
    """Training was stopped by a signal after a clean checkpoint."""

    exit_code: ClassVar[int] = 130


def require(module: str, extra: str) -> ModuleType:
    """Import an optional package, or say which extra installs it.

    Args:
        module: Import name, such as `statsforecast` or `onnx`.
        extra: Extra of the `heed` distribution that brings it.

    Raises:
        UsageError: The package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        message = f"{package} is needed for this but is not installed: pip install 'heed[{extra}]'"
        raise UsageError(message) from error

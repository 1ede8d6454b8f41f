"""What a command says, where, and the exit code it ends with."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from shared_runtime.errors import HeedError

OWN_PACKAGES = ("shared_runtime", "shared_attention", "domains")


def say(line: str) -> None:
    """Write one line to stderr; stdout is for results."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def guarded(name: str, values: Mapping[str, Any]) -> Iterator[None]:
    """Turn whatever ends a verb into one line on stderr and a documented exit code.

    Args:
        name: Domain, or another extra of the distribution, that brings missing packages.
        values: Parsed flags: `quiet`, `debug`, and `out` or `run`, where a traceback may go.
    """
    try:
        with _logging(logging.WARNING if values.get("quiet") else logging.INFO):
            yield
    except HeedError as error:
        say(f"heed: error: {error}")
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt as error:
        say("heed: interrupted")
        raise typer.Exit(130) from error
    except typer.Exit:
        raise
    except BrokenPipeError as error:
        # The reader of stdout went away (`| head`); nothing is left to say to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from error
    except Exception as error:
        say(f"heed: error: {_crash(name, error, values)}")
        raise typer.Exit(1) from error


@contextmanager
def _logging(level: int) -> Iterator[None]:
    logger = logging.getLogger("heed")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("heed: %(message)s"))
    handler.setLevel(level)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)


def _crash(name: str, error: Exception, values: Mapping[str, Any]) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        package = error.name.partition(".")[0]
        if package not in OWN_PACKAGES:
            return f"{name} needs {package}, which is not installed: pip install 'heed[{name}]'"
    line = f"{type(error).__name__}: {' '.join(str(error).split())}"
    if values.get("debug") or os.environ.get("HEED_DEBUG") == "1":
        say(traceback.format_exc())
        return line
    log = _log_file(values)
    if log is None:
        return f"{line} (repeat with --debug for the traceback)"
    with log.open("a", encoding="utf-8") as file:
        file.write(traceback.format_exc())
    return f"{line} (traceback in {log})"


def _log_file(values: Mapping[str, Any]) -> Path | None:
    for folder in (values.get("out"), values.get("run")):
        if folder is not None and (folder / "run.log").is_file():
            return folder / "run.log"
    return None

"""What is wrong with a file: as an error that stops, and as a problem that `check` lists."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from shared_runtime.domain import Problem
from shared_runtime.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from domains.medical.data.case import Case


class BadFileError(DataError):
    """One file cannot be used: which, what is wrong with it, and what to do."""

    def __init__(self, where: Path | str, what: str, remedy: str) -> None:
        self.problem = problem("error", where, what, remedy)
        super().__init__(f"{self.problem.where}: {self.problem.what}; {self.problem.remedy}")


@dataclass
class Found:
    """What a layout holds; what it does not declare is None and is taken from the files.

    Args:
        cases: those that have all their files.
        problems: what is wrong with the others, and with the declaration.
        channels: their names.
        labels: name to class index, background 0 first.
        values: raw value of each class index.
        targets: classes of whole images.
    """

    cases: list[Case] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    channels: tuple[str, ...] | None = None
    labels: Mapping[str, int] | None = None
    values: tuple[int, ...] | None = None
    targets: tuple[str, ...] = ()

    def error(self, where: Path | str, what: str, remedy: str) -> None:
        """Add an error."""
        self.problems.append(problem("error", where, what, remedy))

    def warning(self, where: Path | str, what: str, remedy: str) -> None:
        """Add a warning."""
        self.problems.append(problem("warning", where, what, remedy))


def problem(
    severity: Literal["error", "warning"], where: Path | str, what: str, remedy: str
) -> Problem:
    """Return a problem in one line, whatever bytes names and messages hold."""
    return Problem(severity, shown(where), _line(what), _line(remedy))


def problem_of(error: Exception, where: Path | str) -> Problem:
    """Return any error as a problem of the file it is about."""
    if isinstance(error, BadFileError):
        return error.problem
    return problem("error", where, f"cannot be used ({reason(error)})", "replace the file")


def shown(path: Path | str) -> str:
    """Return a path that can be printed: bytes that are no UTF-8 are replaced."""
    return _line(os.fsencode(path).decode("utf-8", "replace"))


def reason(error: Exception) -> str:
    """Return the type and the text of a library's error in one line."""
    text = _line(str(error))[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _line(text: str) -> str:
    return " ".join(text.encode("utf-8", "replace").decode().split())

"""What is wrong with one file, collected in one pass: a few rows of each kind, and a count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from shared_runtime.domain import Problem

Severity = Literal["error", "warning"]
SHOWN = 3


@dataclass
class _Kind:
    rows: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    count: int = 0
    last: int = 0


@dataclass
class Findings:
    """Problems of one file, found in any order.

    Attributes:
        path: The file.
        unit: What its rows are called: `row`, `line` or `column`.
    """

    path: Path
    unit: str = "row"
    _kinds: dict[tuple[Severity, str, str], _Kind] = field(default_factory=dict)
    _whole: list[Problem] = field(default_factory=list)
    _wrong: list[np.ndarray] = field(default_factory=list)

    def file(self, severity: Severity, what: str, remedy: str) -> None:
        """Add something wrong with the file as a whole."""
        self._whole.append(Problem(severity, str(self.path), what, remedy))

    def rows(
        self,
        severity: Severity,
        numbers: np.ndarray,
        what: str,
        remedy: str,
        detail: Callable[[int], str] | None = None,
    ) -> None:
        """Add rows that are wrong in one way.

        Args:
            severity: `error` or `warning`.
            numbers: int `[n]`, rows counted from 1; nothing is added where there are none.
            what: The kind, the same for all rows of it.
            remedy: What to do.
            detail: What is wrong with the n-th of `numbers`, said instead of `what`.
        """
        if not len(numbers):
            return
        if severity == "error":
            self._wrong.append(numbers)
        kind = self._kinds.setdefault((severity, what, remedy), _Kind())
        for place in range(min(SHOWN - len(kind.rows), len(numbers))):
            kind.rows.append(int(numbers[place]))
            kind.texts.append(what if detail is None else detail(place))
        kind.count += len(numbers)
        kind.last = max(kind.last, int(numbers[-1]))

    def wrong_rows(self) -> np.ndarray:
        """Return the numbers of the rows with errors so far, int64 `[n]`."""
        return np.concatenate([np.zeros(0, np.int64), *self._wrong])

    @property
    def failed(self) -> bool:
        """Whether one of them is an error."""
        severities = [problem.severity for problem in self._whole]
        return "error" in [*severities, *(severity for severity, _, _ in self._kinds)]

    def problems(self) -> list[Problem]:
        """Return them: those of the whole file, then each kind."""
        found = list(self._whole)
        for (severity, what, remedy), kind in self._kinds.items():
            for number, text in zip(kind.rows, kind.texts, strict=True):
                found.append(Problem(severity, f"{self.path}: {self.unit} {number}", text, remedy))
            if kind.count > len(kind.rows):
                more = kind.count - len(kind.rows)
                what = f"{what}: {more} more, the last at {self.unit} {kind.last}"
                found.append(Problem(severity, str(self.path), what, remedy))
        return found

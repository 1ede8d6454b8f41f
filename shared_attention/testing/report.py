"""What the conformance kit found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["passed", "failed", "not claimed", "expected failure"]


class NotClaimed(Exception):
    """A check does not apply, since the mechanism does not claim what it checks."""


@dataclass(frozen=True)
class Check:
    """One check and what came of it."""

    name: str
    status: Status
    reason: str = ""
    """Why it failed, or why it was not run."""


@dataclass(frozen=True)
class Report:
    """Every check of one mechanism."""

    mechanism: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing failed that was not expected to."""
        return not self.failed

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the checks that failed."""
        return tuple(check.name for check in self.checks if check.status == "failed")

    def __str__(self) -> str:
        width = max(len(check.name) for check in self.checks)
        passed = sum(check.status == "passed" for check in self.checks)
        lines = [f"{self.mechanism}: {passed} passed, {len(self.failed)} failed"]
        for check in self.checks:
            line = f"  {check.name:<{width}}  {check.status:<16}  {check.reason}"
            lines.append(line.rstrip())
        return "\n".join(lines)

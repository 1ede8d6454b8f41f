"""`sample`: write a small synthetic data set in the field's own format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shared_runtime.domain import Domain
from shared_runtime.errors import UsageError


def sample(domain: Domain, out: Path, *, seed: int = 0) -> list[Path]:
    """Write the sample into `out` and return its files.

    Raises:
        UsageError: `out` is a file or a folder that is not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {out}: exists and is not an empty folder; choose another")
    out.mkdir(parents=True, exist_ok=True)
    return domain.write_sample(out, seed=seed)


def command(domain: Domain, values: Mapping[str, Any]) -> None:
    """Carry out the verb for the command line."""
    if values["out"] is None:
        raise UsageError("--out is needed: the folder to write the sample to")
    for path in sample(domain, values["out"], seed=values["seed"] or 0):
        print(path)

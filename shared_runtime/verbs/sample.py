"""`sample`: write a small synthetic data set in the field's own format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shared_runtime.domain import Domain
from shared_runtime.errors import UsageError

MOST_LISTED = 20
"""Files that are listed one by one; more are counted."""


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
    files = sample(domain, values["out"], seed=values["seed"] or 0)
    for line in summary(values["out"], files):
        print(line)


def summary(out: Path, files: Sequence[Path]) -> list[str]:
    """Return a line per file where they are few, else one per folder in `out`.

    A folder's line counts the files in each folder below it.
    """
    if len(files) <= MOST_LISTED:
        return [str(path) for path in files]
    below: dict[Path, Counter[str]] = {}
    for path in files:
        place = path.relative_to(out)
        above, *rest = place.parts
        where = below.setdefault(out / above, Counter())
        if rest:
            where["/".join(rest[:-1])] += 1
    return [f"{path}{_counts(count)}" for path, count in below.items()]


def _counts(count: Counter[str]) -> str:
    """Return how many files are in which folder, as `: 12 in imagesTr, 1 file beside them`."""
    folders = [f"{number} in {name}" for name, number in count.items() if name]
    own = count[""]
    if own:
        folders.append(f"{own} file{'s' if own > 1 else ''}{' beside them' if folders else ''}")
    return f": {', '.join(folders)}" if folders else ""

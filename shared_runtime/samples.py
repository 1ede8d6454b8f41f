"""The synthetic sample of a domain, for verbs that need data to size a model."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared_runtime.domain import Domain, ModelSpec


def sample_path(domain: Domain, spec: ModelSpec, folder: Path) -> Path:
    """Return the file of the sample in `folder` that suits the task of a model."""
    return folder / domain.SAMPLES[spec.task]


@contextmanager
def temporary_sample(domain: Domain, *, seed: int = 0) -> Iterator[Path]:
    """Write the sample into a folder that is gone after the block."""
    with tempfile.TemporaryDirectory(prefix="heed-") as name:
        domain.write_sample(Path(name), seed=seed)
        yield Path(name)

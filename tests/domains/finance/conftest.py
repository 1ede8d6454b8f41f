"""Sample files and finished runs that the tests of verbs share; a few seconds each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shared_runtime.verbs.train import RunResult, train
from tests.domains.finance.small_runs import DOMAIN, FI2010, configuration, first_lines


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("finance")


@pytest.fixture(scope="session")
def sample(folder: Path) -> Path:
    DOMAIN.write_sample(folder / "sample", seed=0)
    return folder / "sample"


@pytest.fixture(scope="session")
def lobster(sample: Path, folder: Path) -> Path:
    """One day of one ticker, its first 2000 messages."""
    out = folder / "lobster"
    out.mkdir()
    for path in (sample / "lobster").glob("SIMA_2024-03-04_*"):
        first_lines(path, out / path.name, 2000)
    return out


@pytest.fixture(scope="session")
def snapshots(sample: Path, folder: Path) -> Path:
    return first_lines(sample / "snapshots.csv", folder / "snapshots.csv", 1201)


@pytest.fixture(scope="session")
def normalised(sample: Path, folder: Path) -> Path:
    """FI-2010 files of z-scores, whose prices mean nothing."""
    out = folder / "normalised"
    out.mkdir()
    for path in (sample / "fi2010").glob("*.txt"):
        rows = np.loadtxt(path)
        spread = rows[:144].std(axis=1, keepdims=True)
        rows[:144] -= rows[:144].mean(axis=1, keepdims=True)
        rows[:144] /= np.where(spread > 0, spread, 1)
        np.savetxt(out / path.name.replace("DecPre", "ZScore"), rows, fmt="%.7e")
    return out


@pytest.fixture(scope="session")
def lobster_run(lobster: Path, folder: Path) -> RunResult:
    sets = ["training.learning_rate=0.003", "training.epochs=3", "model.latest_bins=8"]
    return train(DOMAIN, configuration(lobster, "TLOB", sets), folder / "run", progress=False)


@pytest.fixture(scope="session")
def snapshots_run(snapshots: Path, folder: Path) -> RunResult:
    sets = ["model.layers=2"]
    config = configuration(snapshots, "StreamingLOB", sets)
    return train(DOMAIN, config, folder / "snapshots-run", progress=False)


@pytest.fixture(scope="session")
def normalised_run(normalised: Path, folder: Path) -> RunResult:
    config = configuration(normalised, "BiNCTABL", FI2010)
    return train(DOMAIN, config, folder / "normalised-run", progress=False)

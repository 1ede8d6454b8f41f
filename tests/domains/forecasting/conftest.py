"""Finished runs that the tests of verbs, predictions and scores share; a second each."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from shared_runtime.verbs.train import RunResult, train
from tests.domains.forecasting.small_runs import (
    DOMAIN,
    configuration,
    long_table,
    wide_table,
    write,
)

QUANTILES = "data.quantiles=[0.1,0.25,0.5,0.75,0.9]"
LENGTHS = {"north": 150, "007": 149, "south": 70, "Ünder": 152}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("forecasting")


@pytest.fixture(scope="session")
def sample(folder: Path) -> Path:
    DOMAIN.write_sample(folder / "sample", seed=0)
    return folder / "sample"


@pytest.fixture(scope="session")
def wide_file(folder: Path) -> Path:
    times = pd.date_range("2024-01-01", periods=260, freq="h")
    return write(wide_table(times), folder / "wide.csv")


@pytest.fixture(scope="session")
def long_file(folder: Path) -> Path:
    return write(long_table(LENGTHS), folder / "long.csv")


@pytest.fixture(scope="session")
def wide_run(wide_file: Path, folder: Path) -> RunResult:
    config = configuration(wide_file, "InvertedTransformer")
    return train(DOMAIN, config, folder / "wide", progress=False)


@pytest.fixture(scope="session")
def quantile_run(wide_file: Path, folder: Path) -> RunResult:
    config = configuration(wide_file, "PatchedTransformer", [QUANTILES])
    return train(DOMAIN, config, folder / "quantile", progress=False)


@pytest.fixture(scope="session")
def covariate_run(long_file: Path, folder: Path) -> RunResult:
    sets = ["data.future_covariates=[promotion]", "data.cutoffs=2"]
    config = configuration(long_file, "MHAC", sets)
    return train(DOMAIN, config, folder / "covariate", progress=False)


@pytest.fixture(scope="session")
def long_run(long_file: Path, folder: Path) -> RunResult:
    config = configuration(long_file, "InvertedTransformer", ["data.targets=[y]"])
    return train(DOMAIN, config, folder / "long", progress=False)


@pytest.fixture(scope="session")
def labelled_run(sample: Path, folder: Path) -> RunResult:
    config = configuration(sample / "gestures_TRAIN.ts", "FlowformerClassifier")
    return train(DOMAIN, config, folder / "labelled", progress=False)

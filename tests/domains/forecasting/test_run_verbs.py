"""Every verb of `heed forecasting` on the sample files, through the command and from Python."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from domains.forecasting.api import load_ett
from domains.forecasting.cli import app
from domains.forecasting.data.samples import LONG
from shared_runtime.domain import LoadedModel
from shared_runtime.verbs.benchmark import benchmark
from shared_runtime.verbs.explain import explain
from shared_runtime.verbs.models import models
from shared_runtime.verbs.predict import predict_folder
from shared_runtime.verbs.train import WRITTEN, RunResult
from tests.domains.forecasting.small_runs import DOMAIN, HORIZON, LOOKBACK

SMALL = [
    *("--set", "model.d_model=8"),
    *("--set", "training.epochs=1"),
    *("--lookback", "24", "--horizon", "12"),
]


def heed(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output or result.exception
    return result.output


def test_sample_files_are_clean_and_the_same_for_a_seed(sample: Path, tmp_path: Path) -> None:
    printed = heed("sample", "--out", tmp_path / "again").split()
    names = ["hourly.csv", "shops.csv", "gestures_TRAIN.ts", "gestures_TEST.ts"]
    assert [Path(line).name for line in printed] == names
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (sample / name).read_bytes()
    for name in ("hourly.csv", "shops.csv", "gestures_TRAIN.ts"):
        assert "0 errors, 0 warnings" in heed("check", "--data", sample / name)


def test_check_lists_what_is_wrong_with_line_and_remedy(wide_file: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(wide_file, dtype=str)
    frame.loc[9, "c1"] = "broken"
    frame.loc[20, "c0"] = ""
    path = tmp_path / "broken.csv"
    frame.to_csv(path, index=False)
    sizes = ["--lookback", "24", "--horizon", "12"]
    printed = heed("check", "--data", path, *sizes, code=3)
    assert f"error: {path}: line 11, column 'c1': 'broken' is not a number" in printed
    assert f"error: {path}: line 22, column 'c0': a missing value (1 in the column)" in printed
    printed = heed("check", "--data", path, *sizes, "--json", code=3)
    found, _ = json.JSONDecoder().raw_decode(printed, printed.index("["))
    assert len(found) == 2
    assert {"severity", "where", "what", "remedy"} == set(found[0])


@pytest.mark.parametrize("kind", ["wide", "quantile", "covariate", "long", "labelled"])
def test_a_run_folder_is_complete(request: pytest.FixtureRequest, kind: str) -> None:
    run: RunResult = request.getfixturevalue(f"{kind}_run")
    assert {path.name for path in run.folder.iterdir()} >= set(WRITTEN)
    metrics = json.loads((run.folder / "metrics.json").read_text())
    assert metrics == run.metrics
    config = yaml.safe_load((run.folder / "config.yaml").read_text())
    assert config["domain"] == "forecasting"
    assert Path(config["data"]["path"]).is_absolute()
    report = (run.folder / "report.html").read_text()
    assert "<svg" in report and "NaN" not in report
    assert len(pd.read_csv(run.folder / "predictions.csv")) == len(run.evaluation.predictions)


def test_train_by_command_on_a_wide_file_repeats_itself(wide_file: Path, tmp_path: Path) -> None:
    arguments = ["train", "--data", wide_file, *SMALL, "-q", "--seed", "3", "--out"]
    printed = heed(*arguments, tmp_path / "run")
    assert "InvertedTransformer" in printed and "ridge" in printed
    heed("train", "--config", tmp_path / "run" / "config.yaml", "-q", "--out", tmp_path / "again")
    for name in ("model.safetensors", "predictions.csv", "metrics.json"):
        first, second = (tmp_path / folder / name for folder in ("run", "again"))
        assert first.read_bytes() == second.read_bytes(), name


def test_dry_run_writes_nothing(sample: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ["--set", "data.future_covariates=[promotion]", "--model", "MHAC", *SMALL]
    printed = heed("train", "--data", sample / LONG, *options, "--out", out, "--dry-run")
    assert "'future_covariates': [32, 12, 1]" in printed
    assert not out.exists()


def test_evaluate_and_predict_by_command(
    quantile_run: RunResult, wide_file: Path, tmp_path: Path
) -> None:
    run = quantile_run.folder
    printed = heed("evaluate", "--run", run, "--split", "val", "--out", tmp_path / "val")
    assert "PatchedTransformer" in printed and "coverage_80" in printed
    assert json.loads((tmp_path / "val" / "metrics.json").read_text())["n_scored"] == 15
    heed("predict", "--run", run, "--data", wide_file, "--out", tmp_path / "out.csv")
    table = pd.read_csv(tmp_path / "out.csv")
    assert len(table) == HORIZON
    printed = heed("predict", "--run", run, "--data", wide_file)
    assert printed == (tmp_path / "out.csv").read_text()


def test_predict_a_folder_in_which_one_file_is_broken(
    wide_run: RunResult, wide_file: Path, tmp_path: Path
) -> None:
    inputs, out = tmp_path / "in", tmp_path / "out"
    inputs.mkdir()
    (inputs / "a.csv").write_bytes(wide_file.read_bytes())
    (inputs / "b.csv").write_text("date,c0,c1\n2024-01-01,1,2\n")
    printed = heed("predict", "--run", wide_run.folder, "--data", inputs, "--out", out, code=4)
    assert "1 done, 0 already done, 1 failed" in printed
    assert "no column 'c2'" in (out / "failures.csv").read_text()
    again = predict_folder(DOMAIN, wide_run.folder, inputs, out)
    assert (again.done, again.skipped, len(again.failures)) == (0, 1, 1)


@pytest.mark.parametrize("kind", ["wide", "covariate", "labelled"])
def test_explain(request: pytest.FixtureRequest, kind: str, tmp_path: Path) -> None:
    run: RunResult = request.getfixturevalue(f"{kind}_run")
    files = {path.name: path for path in explain(DOMAIN, run.folder, out=tmp_path / "explain")}
    assert files["explain.html"].read_text().count("<svg") >= len(files) - 3
    heads = pd.read_csv(files["attention-heads.csv"])
    assert np.isfinite(heads[["entropy", "distance"]]).all(axis=None)
    if kind != "labelled":
        lags = pd.read_csv(files["lag-importance.csv"])
        assert lags["lag"].tolist() == list(range(LOOKBACK, 0, -1))
        assert (lags.drop(columns="lag") >= 0).all(axis=None)
        assert "lag-importance.png" in files
    else:
        assert "lag-importance.csv" not in files


def test_models_lists_every_model(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row["name"]: row for row in models(DOMAIN)}
    assert set(rows) == set(DOMAIN.models())
    assert all(row["parameters"] > 0 for row in rows.values())
    assert rows["MHAC"]["task"] == "forecast"
    assert rows["InvertedTransformer"]["options"]["dropout"] == 0.5


@pytest.mark.parametrize("names", [("InvertedTransformer", "MHAC"), ("AarenClassifier",)])
def test_benchmark(names: tuple[str, ...]) -> None:
    sizes = ["data.lookback=24", "data.horizon=12", "training.batch_size=2"]
    rows = benchmark(DOMAIN, names=names, rounds=1, device="cpu", sets=sizes)
    assert [row["name"] for row in rows] == list(names)
    assert rows[0]["train_ratio"] == 1
    assert all(row["train_seconds"] > 0 and row["inference_seconds"] > 0 for row in rows)


def test_load_ett_gives_the_published_windows(heed_data: Path) -> None:
    prepared = load_ett(heed_data / "forecasting" / "ETTh1.csv", lookback=48, horizon=24)
    counts = [len(part) for part in (prepared.train, prepared.val, prepared.test)]
    assert counts == [8640 - 48 - 24 + 1, 2880 - 24 + 1, 2880 - 24 + 1]
    batch = prepared.test.batch(np.array([0, 5]))
    assert batch["past"].shape == (2, 48, 7)
    assert batch["future"].shape == (2, 24, 7)


def test_a_run_of_one_task_cannot_predict_files_of_the_other(
    wide_run: RunResult, labelled_run: RunResult, sample: Path, wide_file: Path
) -> None:
    labelled: LoadedModel = labelled_run.loaded
    assert labelled.spec.task == "classify"
    printed = heed("predict", "--run", labelled_run.folder, "--data", wide_file, code=3)
    assert printed.count("\n") <= 1 and "Traceback" not in printed
    file = sample / "gestures_TEST.ts"
    printed = heed("predict", "--run", wide_run.folder, "--data", file, code=3)
    assert printed.count("\n") <= 1 and "Traceback" not in printed

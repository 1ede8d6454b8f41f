"""Every format from files to a verdict, and forecasts of single files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from domains.finance.data.features import MEMORY
from shared_runtime.verbs.predict import predict_folder
from shared_runtime.verbs.train import WRITTEN, RunResult, train
from tests.domains.finance.small_runs import DOMAIN, FI2010, configuration, first_lines, heed


def require_whole(run: Path) -> None:
    """Assert that a run folder holds a verdict that agrees with its forecasts."""
    assert {path.name for path in run.iterdir()} >= {*WRITTEN, "verdict.csv"}
    metrics = json.loads((run / "metrics.json").read_text())
    forecasts = pd.read_csv(run / "predictions.csv")
    assert len(forecasts) == metrics["n_scored"]
    shares = forecasts[["p_up", "p_stationary", "p_down"]]
    assert np.allclose(shares.sum(axis=1), 1, atol=1e-6)
    accuracy = (forecasts["label"] == forecasts["predicted"]).mean()
    assert metrics["metrics"]["accuracy"]["value"] == pytest.approx(accuracy)
    table = pd.read_csv(run / "verdict.csv")
    scores = table[(table["section"] == "score") & (table["name"] == "accuracy")]
    assert scores.set_index("model")["value"][metrics["model"]] == pytest.approx(accuracy)
    shares = table[table["section"] == "labels"]["value"]
    assert len(shares) == 3 and shares.sum() == pytest.approx(1)
    report = (run / "report.html").read_text()
    assert "<svg" in report and "NaN" not in report


@pytest.mark.parametrize("kind", ["lobster", "snapshots", "normalised"])
def test_runs_are_whole(request: pytest.FixtureRequest, kind: str) -> None:
    run: RunResult = request.getfixturevalue(f"{kind}_run")
    require_whole(run.folder)
    for name in ("majority", "level-1 imbalance", "logistic regression", "gradient boosting"):
        assert name in run.metrics["baselines"]
    assert ("drift rule" in run.metrics["baselines"]) == (kind != "normalised")


def test_diffs_and_fi2010_prices(sample: Path, tmp_path: Path) -> None:
    diffs = first_lines(sample / "diffs.csv", tmp_path / "diffs.csv", 3000)
    run = train(DOMAIN, configuration(diffs, "MLPLOB"), tmp_path / "diffs")
    require_whole(run.folder)
    run = train(DOMAIN, configuration(sample / "fi2010", "MLPLOB", FI2010), tmp_path / "fi2010")
    require_whole(run.folder)
    assert "net_pnl" in run.metrics["metrics"], "decimal precision keeps prices"


def test_nothing_is_said_about_the_money_of_normalised_prices(
    normalised_run: RunResult, normalised: Path
) -> None:
    assert "net_pnl" not in normalised_run.metrics["metrics"]
    assert "nothing can be said about money" in normalised_run.evaluation.text
    printed = heed("backtest", "--run", normalised_run.folder, code=3)
    assert "prices are normalised" in printed
    assert not (normalised_run.folder / "backtest").exists()
    printed = heed("check", "--data", normalised, code=3)
    assert "use data.features=given or book" in printed


def test_rows_without_a_clock_are_numbered(normalised_run: RunResult) -> None:
    """FI-2010 files say nothing of time, so no time of day may be made up."""
    forecasts = pd.read_csv(normalised_run.folder / "predictions.csv")
    assert pd.api.types.is_integer_dtype(forecasts["time"])
    assert forecasts["time"].iloc[0] >= 1
    table = pd.read_csv(normalised_run.folder / "verdict.csv")
    assert not table["name"].str.startswith("part of day").any()
    assert "minutes" not in normalised_run.evaluation.text
    report = (normalised_run.folder / "report.html").read_text().partition("<h2>Data</h2>")[0]
    assert "00:00" not in report and "row 8" in report


def test_times_are_those_of_the_files(lobster_run: RunResult, snapshots_run: RunResult) -> None:
    forecasts = pd.read_csv(lobster_run.folder / "predictions.csv", dtype={"time": str})
    assert (forecasts["time"].astype(float).diff().dropna() >= 0).all()
    assert forecasts["time"].str.len().eq(len("34200.123456789")).all()
    forecasts = pd.read_csv(snapshots_run.folder / "predictions.csv")
    assert pd.to_datetime(forecasts["time"]).dt.date.nunique() == 1


def test_predict_a_file_and_a_folder(
    lobster_run: RunResult, lobster: Path, sample: Path, tmp_path: Path
) -> None:
    (message,) = lobster.glob("*_message_*")
    one = tmp_path / "one.csv"
    heed("predict", "--run", lobster_run.folder, "--data", message, "--out", one)
    found = pd.read_csv(one)
    assert len(found) == 2000 - 8 + 1 and "label" not in found
    scored = pd.read_csv(lobster_run.folder / "predictions.csv")
    same = found.iloc[-len(scored) - 10 : -10].reset_index(drop=True)
    for column in ("time", "bid", "ask"):
        assert same[column].equals(scored[column]), "all rows but the last of the horizon"
    late = slice(MEMORY, None)
    assert np.allclose(same["p_up"][late], scored["p_up"][late], atol=1e-5)
    outcome = predict_folder(DOMAIN, lobster_run.folder, sample / "lobster", tmp_path / "all")
    assert (outcome.done, len(outcome.failures)) == (4, 0)


def test_predict_what_the_model_was_not_trained_for(
    lobster_run: RunResult, sample: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.csv"
    file = sample / "snapshots.csv"
    printed = heed("predict", "--run", lobster_run.folder, "--data", file, "--out", out, code=3)
    assert "features, the model was trained with" in printed and printed.count("\n") == 1
    assert not out.exists()
    inputs = tmp_path / "in"
    inputs.mkdir()
    for half in (sample / "lobster").glob("SIMA_2024-03-04_*"):
        (inputs / half.name).write_bytes(half.read_bytes())
    lone = next((sample / "lobster").glob("SIMB_2024-03-04_*message*"))
    (inputs / lone.name).write_bytes(lone.read_bytes())
    printed = heed(
        *("predict", "--run", lobster_run.folder, "--data", inputs),
        *("--out", tmp_path / "out"),
        code=4,
    )
    assert "1 done, 0 already done, 1 failed" in printed
    failures = pd.read_csv(tmp_path / "out" / "failures.csv")
    assert len(failures) == 1 and not failures["error"][0].startswith("error:")


def test_evaluate_another_day(lobster_run: RunResult, sample: Path, tmp_path: Path) -> None:
    day = next((sample / "lobster").glob("SIMA_2024-03-05_*message*"))
    out = tmp_path / "out"
    printed = heed("evaluate", "--run", lobster_run.folder, "--data", day, "--out", out)
    assert "Of the moves" in printed and "up," in printed
    assert (out / "verdict.csv").is_file()
    printed = heed("evaluate", "--run", lobster_run.folder, "--out", out, code=2)
    assert "exists and is not an empty folder" in printed

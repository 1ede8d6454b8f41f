"""What a finished run says about itself: counts, coverage, other data, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from domains.forecasting.conformal import widen
from domains.forecasting.inference import forecast_batches
from domains.forecasting.metrics import values_only
from shared_runtime.errors import DataError, UsageError
from shared_runtime.options import resolve
from shared_runtime.runs import open_run, prepare_again
from shared_runtime.verbs.evaluate import evaluate
from shared_runtime.verbs.predict import predict
from shared_runtime.verbs.train import RunResult, train
from tests.domains.forecasting.small_runs import (
    DOMAIN,
    HORIZON,
    configuration,
    long_table,
    untrained,
    write,
)

CPU = torch.device("cpu")


def own_metrics(document: dict) -> dict[str, float]:
    return {
        name: entry["value"] if isinstance(entry, dict) else entry
        for name, entry in document["metrics"].items()
    }


@pytest.mark.parametrize("kind", ["wide", "quantile", "covariate", "labelled"])
def test_evaluating_again_gives_the_metrics_of_training(
    request: pytest.FixtureRequest, kind: str
) -> None:
    run: RunResult = request.getfixturevalue(f"{kind}_run")
    assert evaluate(DOMAIN, run.folder) == run.metrics


@pytest.mark.parametrize("kind", ["quantile", "covariate", "labelled"])
@pytest.mark.parametrize("size", [1, 7])
def test_metrics_do_not_depend_on_the_batch_size(
    request: pytest.FixtureRequest, kind: str, size: int
) -> None:
    run: RunResult = request.getfixturevalue(f"{kind}_run")
    opened = open_run(DOMAIN, run.folder, device="cpu")
    prepared = prepare_again(opened, other_data=False)
    other = DOMAIN.evaluate(opened.loaded, prepared, "test", batch_size=size, device=CPU, seed=0)
    assert other.n_scored == run.evaluation.n_scored
    expected = values_only(run.evaluation.metrics)
    assert values_only(other.metrics) == pytest.approx(expected, rel=1e-5)
    pd.testing.assert_frame_equal(other.predictions, run.evaluation.predictions, rtol=1e-4)


def test_the_counts_of_windows_scored(wide_run: RunResult, covariate_run: RunResult) -> None:
    assert wide_run.evaluation.n_scored == 52 - HORIZON + 1
    assert covariate_run.evaluation.n_scored == 4 * 2


def test_the_metrics_are_those_of_the_predictions(covariate_run: RunResult) -> None:
    """Every window is in the table where none overlap."""
    table = covariate_run.evaluation.predictions
    error = table["forecast"] - table["y"]
    found = values_only(covariate_run.evaluation.metrics)
    assert found["original_mae"] == pytest.approx(error.abs().mean(), rel=1e-5)
    assert found["original_rmse"] == pytest.approx((error**2).mean() ** 0.5, rel=1e-5)
    size = table["forecast"].abs() + table["y"].abs()
    assert found["smape"] == pytest.approx((error.abs() / size).mean(), rel=1e-5)


@pytest.mark.parametrize("lengths", [(80, 81, 82, 83), (83, 80, 90, 80)])
def test_every_series_is_among_the_predictions(tmp_path: Path, lengths: tuple[int, ...]) -> None:
    """Windows of different series never overlap, whatever their cut-offs."""
    frame = long_table({f"s{n}": length for n, length in enumerate(lengths)})
    path = write(frame, tmp_path / "long.csv")
    sets = ["data.targets=[y]", "data.cutoffs=4", "data.cutoff_step=5"]
    loaded, prepared = untrained(path, sets=sets)
    found = DOMAIN.evaluate(loaded, prepared, "test", batch_size=8, device=CPU, seed=0)
    shown = found.predictions[["unique_id", "cutoff"]].drop_duplicates()
    assert found.n_scored == 16
    assert shown["unique_id"].tolist() == ["s0", "s0", "s1", "s1", "s2", "s2", "s3", "s3"]
    assert set(shown["cutoff"]) == {"2024-06-03", "2024-06-18"}


def test_drop_last_compat_leaves_out_the_last_partial_batch(
    wide_run: RunResult, tmp_path: Path
) -> None:
    sets = ["data.drop_last_compat=12"]
    out = tmp_path / "compat"
    document = evaluate(DOMAIN, wide_run.folder, sets=sets, out=out)
    assert document["n_scored"] == 36
    opened = open_run(DOMAIN, wide_run.folder, device="cpu", sets=sets)
    prepared = prepare_again(opened, other_data=False)
    whole = prepare_again(open_run(DOMAIN, wide_run.folder, device="cpu"), other_data=False)
    squares = []
    for _, batch, forecast in forecast_batches(
        opened.loaded.model, whole.test, batch_size=12, device=CPU
    ):
        if len(forecast) == 12:
            squares.append((forecast[..., 0] - batch["future"].numpy()) ** 2)
    assert own_metrics(document)["mse"] == pytest.approx(np.mean(squares), rel=1e-5)
    assert len(prepared.train) == len(whole.train)
    assert (prepared.test.cutoffs == whole.test.cutoffs[:36]).all()
    with pytest.raises(UsageError) as caught:
        evaluate(DOMAIN, wide_run.folder, sets=["data.drop_last_compat=64"])
    assert str(caught.value) == (
        "data.drop_last_compat=64: the validation part has 15 windows, less than one batch; "
        "choose a smaller one"
    )


def test_quantile_intervals_are_calibrated_on_validation_and_saved(
    quantile_run: RunResult, wide_file: Path
) -> None:
    state = json.loads((quantile_run.folder / "model.json").read_text())["preprocessing"]
    quantiles, offsets = state["quantiles"], state["conformal_offsets"]
    assert np.shape(offsets) == (2, HORIZON, 3)
    opened = open_run(DOMAIN, quantile_run.folder, device="cpu")
    prepared = prepare_again(opened, other_data=False)
    (_, batch, raw), *_ = forecast_batches(
        opened.loaded.model, prepared.val, batch_size=1000, device=CPU
    )
    target = batch["future"].numpy()
    count = len(target)
    for pair, (low, high, coverage) in enumerate([(0, 4, 0.8), (1, 3, 0.5)]):
        outside = np.maximum(raw[..., low] - target, target - raw[..., high])
        expected = np.sort(outside, axis=0)[int(np.ceil((count + 1) * coverage)) - 1]
        np.testing.assert_allclose(offsets[pair], expected, atol=2e-6)
    table = predict(DOMAIN, quantile_run.folder, wide_file).table
    loaded = opened.loaded
    bare = {k: v for k, v in loaded.preprocessing.items() if k != "conformal_offsets"}
    without = DOMAIN.predict(
        type(loaded)(loaded.spec, loaded.model, loaded.arguments, bare, loaded.folder),
        wide_file,
        data=opened.config.data,
        batch_size=32,
        device=CPU,
    ).table
    grid = without.iloc[:, 1:].to_numpy().reshape(1, HORIZON, 3, 5)
    scaler = prepared.test.store.scaler
    mean, std = scaler.mean[0][:, None], scaler.std[0][:, None]
    widened = widen((grid - mean) / std, quantiles, offsets) * std + mean
    np.testing.assert_allclose(table.iloc[:, 1:], widened.reshape(HORIZON, -1), rtol=1e-5)


def test_coverage_before_and_after_is_shown(quantile_run: RunResult) -> None:
    table = quantile_run.evaluation.tables["coverage"]
    assert list(table) == ["nominal", "as trained", "calibrated on validation"]
    assert table["nominal"].tolist() == [0.8, 0.5]
    found = values_only(quantile_run.evaluation.metrics)
    assert table["calibrated on validation"].tolist() == [
        found["coverage_80"],
        found["coverage_50"],
    ]
    assert "coverage" in (quantile_run.folder / "report.html").read_text()


def test_other_data_are_scored_with_the_scalers_of_training(
    long_run: RunResult, tmp_path: Path
) -> None:
    """Known series keep their scaler; a series the model never saw gets its own."""
    frame = long_table({"new": 90, "north": 150, "007": 149}, seed=5)
    frame["y"] *= 3
    path = write(frame, tmp_path / "other.csv")
    opened = open_run(DOMAIN, long_run.folder, data=path, device="cpu")
    prepared = prepare_again(opened, other_data=True)
    scaler = prepared.test.store.scaler
    stored = long_run.loaded.preprocessing["scaler"]
    assert scaler.mean[1:].tolist() == stored["mean"][:2]
    assert scaler.std[1:].tolist() == stored["std"][:2]
    own = frame.loc[frame["unique_id"] == "new", "y"].iloc[: 90 - 2 * HORIZON]
    assert scaler.mean[0, 0] == pytest.approx(own.mean())
    assert scaler.std[0, 0] == pytest.approx(own.std(ddof=0))
    document = evaluate(DOMAIN, long_run.folder, data=path)
    assert document["n_scored"] == 3


def test_other_channels_are_refused(wide_run: RunResult, wide_file: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(wide_file).rename(columns={"c1": "load"})
    path = write(frame, tmp_path / "renamed.csv")
    with pytest.raises(DataError) as caught:
        evaluate(DOMAIN, wide_run.folder, data=path)
    assert str(caught.value) == (
        "the model was trained on the channels c0, c1, c2; "
        "the data have c0, load, c2; set data.targets"
    )


def test_a_changed_file_is_noticed(wide_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_bytes(wide_file.read_bytes())
    run = train(
        DOMAIN, configuration(path, "InvertedTransformer"), tmp_path / "run", progress=False
    )
    frame = pd.read_csv(path)
    write(frame.assign(c0=frame["c0"] + 1), path)
    with pytest.raises(DataError) as caught:
        evaluate(DOMAIN, run.folder)
    assert str(caught.value) == (
        f"{path} has changed since {run.folder} was trained; "
        "name it with --data to use it all the same"
    )


def test_another_horizon_is_refused(wide_run: RunResult, wide_file: Path) -> None:
    with pytest.raises(DataError) as caught:
        evaluate(DOMAIN, wide_run.folder, sets=["data.horizon=6"])
    assert str(caught.value) == (
        f"{wide_file.absolute()}: horizon is 6, but InvertedTransformer in {wide_run.folder} "
        "was trained with 12"
    )


def test_a_model_of_the_wrong_task_is_refused(
    sample: Path, wide_file: Path, tmp_path: Path
) -> None:
    labelled = sample / "gestures_TRAIN.ts"
    with pytest.raises(UsageError) as caught:
        train(DOMAIN, configuration(labelled, "Informer"), tmp_path / "run")
    assert str(caught.value) == (
        f"{labelled} holds labelled series, but Informer is for the task forecast; choose one of "
        "FlowformerClassifier, AarenClassifier, TransformerClassifier"
    )
    with pytest.raises(UsageError) as caught:
        sizes = ["data.lookback=24", "data.horizon=12"]
        train(DOMAIN, configuration(wide_file, "AarenClassifier", sizes), tmp_path / "run")
    assert str(caught.value).startswith(
        f"{wide_file} holds series to forecast, but AarenClassifier is for the task classify; "
        "choose one of InvertedTransformer, PatchedTransformer"
    )
    assert not (tmp_path / "run").exists()


def test_a_missing_test_file_is_refused(sample: Path, tmp_path: Path) -> None:
    path = tmp_path / "gestures_TRAIN.ts"
    path.write_bytes((sample / path.name).read_bytes())
    data = resolve(DOMAIN, flags={"data.path": path}).data
    problems = DOMAIN.check(data)
    other = tmp_path / "gestures_TEST.ts"
    assert [str(problem) for problem in problems] == [
        f"error: {path}: no test file {other}; set data.test_path"
    ]
    with pytest.raises(DataError) as caught:
        train(DOMAIN, configuration(path, "AarenClassifier"), tmp_path / "run")
    assert str(caught.value).endswith(f"no test file {other}; set data.test_path")

"""Runs on labelled series: their files, their scores and their refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score

from domains.forecasting.data.config import DataConfig
from domains.forecasting.data.uea import read_ts
from shared_runtime.errors import DataError
from shared_runtime.verbs.evaluate import evaluate
from shared_runtime.verbs.predict import predict
from shared_runtime.verbs.train import RunResult
from tests.domains.forecasting.small_runs import CLASSIFIERS, DOMAIN, untrained

CPU = torch.device("cpu")


def test_the_scores_are_those_of_the_predictions(labelled_run: RunResult, sample: Path) -> None:
    table = labelled_run.evaluation.predictions
    truth = read_ts(sample / "gestures_TEST.ts").labels
    assert table["label"].tolist() == truth.tolist()
    metrics = labelled_run.evaluation.metrics
    assert metrics["accuracy"].value == pytest.approx(accuracy_score(truth, table["predicted"]))
    expected = f1_score(truth, table["predicted"], average="macro", zero_division=0)
    assert metrics["macro_f1"].value == pytest.approx(expected)
    assert labelled_run.evaluation.n_scored == 60


def test_predicted_classes_are_those_of_evaluation(labelled_run: RunResult, sample: Path) -> None:
    table = predict(DOMAIN, labelled_run.folder, sample / "gestures_TEST.ts").table
    names = ["circle", "line", "push", "wave"]
    assert list(table) == ["row", "predicted", *(f"p-{name}" for name in names)]
    probability = table[[f"p-{name}" for name in names]]
    np.testing.assert_allclose(probability.sum(axis=1), 1, rtol=1e-5)
    assert (np.asarray(names)[probability.to_numpy().argmax(1)] == table["predicted"]).all()
    evaluated = labelled_run.evaluation.predictions
    assert (table["predicted"] == evaluated["predicted"]).all()


@pytest.mark.parametrize("model", CLASSIFIERS)
def test_a_prediction_does_not_depend_on_the_batch_or_the_longest_series(
    sample: Path, tmp_path: Path, model: str
) -> None:
    loaded, _ = untrained(sample / "gestures_TRAIN.ts", model)
    lines = (sample / "gestures_TEST.ts").read_text().splitlines()
    start = lines.index("@data") + 1
    shortest = min(lines[start:], key=len)
    path = tmp_path / "one.ts"
    path.write_text("\n".join([*lines[:start], shortest]) + "\n")
    alone = DOMAIN.predict(loaded, path, batch_size=8, data=None, device=CPU).table
    file = sample / "gestures_TEST.ts"
    every = DOMAIN.predict(loaded, file, batch_size=32, data=None, device=CPU).table
    small = DOMAIN.predict(loaded, file, batch_size=1, data=None, device=CPU).table
    columns = [name for name in alone if name.startswith("p-")]
    np.testing.assert_allclose(every[columns], small[columns], atol=1e-5)
    row = lines[start:].index(shortest)
    np.testing.assert_allclose(alone[columns], every.loc[[row], columns], atol=1e-5)


def ts(path: Path, series: list[str], header: str = "@classLabel true a b\n") -> Path:
    path.write_text(f"@problemName Tiny\n{header}@data\n" + "\n".join(series) + "\n")
    return path


def rows(count: int, channels: int = 2, length: int = 5) -> list[str]:
    rng = np.random.default_rng(0)
    cells = rng.normal(size=(count, channels, length)).round(3)
    text = [":".join(",".join(map(str, axis)) for axis in case) for case in cells]
    return [f"{line}:{'ab'[n % 2]}" for n, line in enumerate(text)]


@pytest.mark.parametrize("count", [2, 3, 4, 6])
def test_a_few_series_are_split_without_a_class_for_each_part(tmp_path: Path, count: int) -> None:
    ts(tmp_path / "x_TEST.ts", rows(2))
    path = ts(tmp_path / "x_TRAIN.ts", rows(count))
    _, prepared = untrained(path, "AarenClassifier")
    assert len(prepared.train) + len(prepared.val) == count
    assert len(prepared.val) == -(-count // 5)


def test_one_series_is_too_few(tmp_path: Path) -> None:
    ts(tmp_path / "x_TEST.ts", rows(2))
    path = ts(tmp_path / "x_TRAIN.ts", rows(1))
    with pytest.raises(DataError) as caught:
        untrained(path, "AarenClassifier")
    assert str(caught.value) == (
        f"{path}: 1 series; training and validation need at least 2; give more"
    )


def test_other_channels_are_refused(labelled_run: RunResult, tmp_path: Path) -> None:
    path = ts(tmp_path / "x_TRAIN.ts", rows(6))
    with pytest.raises(DataError) as caught:
        predict(DOMAIN, labelled_run.folder, path)
    assert str(caught.value) == f"{path}: 2 channels, the model was trained on 3"
    other = ts(tmp_path / "x_TEST.ts", rows(2, channels=3))
    with pytest.raises(DataError) as caught:
        untrained(path, "AarenClassifier")
    assert str(caught.value) == (f"{other}: 3 channels, {path} has 2; give files of one data set")


def test_longer_series_and_unknown_classes_are_refused_with_their_file(
    labelled_run: RunResult, tmp_path: Path
) -> None:
    path = ts(tmp_path / "long.ts", rows(2, 3, 90), "@classLabel true circle line a b\n")
    with pytest.raises(DataError) as caught:
        predict(DOMAIN, labelled_run.folder, path)
    assert str(caught.value) == (
        f"{path}: class 'a' was not in the training data; remove its series"
    )
    path = ts(tmp_path / "long.ts", [line[:-1] + "line" for line in rows(2, 3, 90)], "")
    with pytest.raises(DataError, match=rf"^{path}: a series has 90 steps, the model takes 40; "):
        predict(DOMAIN, labelled_run.folder, path)


def test_the_scale_is_that_of_the_training_part(sample: Path) -> None:
    """Validation and test series do not move it; padding does not count."""
    _, prepared = untrained(sample / "gestures_TRAIN.ts", "AarenClassifier")
    x, valid = prepared.train.x, prepared.train.valid
    np.testing.assert_allclose(x[valid].mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(x[valid].std(0, correction=0), 1, atol=1e-4)
    assert (x[~valid] == 0).all()


def test_other_labelled_data_keep_the_stored_scale(
    labelled_run: RunResult, sample: Path, tmp_path: Path
) -> None:
    state = labelled_run.loaded.preprocessing
    prepared = DOMAIN.prepare(
        DataConfig(path=sample / "gestures_TEST.ts", test_path=sample / "gestures_TRAIN.ts"),
        spec=labelled_run.loaded.spec,
        seed=0,
        preprocessing=state,
    )
    assert prepared.preprocessing == state
    flags = {"data.test_path": sample / "gestures_TRAIN.ts"}
    other = evaluate(DOMAIN, labelled_run.folder, data=sample / "gestures_TEST.ts", flags=flags)
    assert other["n_scored"] == 120

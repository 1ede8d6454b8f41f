"""Scores against scikit-learn, and intervals that widen with the overlap of labels."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from domains.finance.metrics import (
    CLASSES,
    classification_metrics,
    confusion,
    reliability_table,
)
from domains.finance.resampling import resampled_means
from shared_runtime.errors import HeedError


def forecasts(n: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = rng.choice(3, n, p=[0.3, 0.45, 0.25]).astype(np.int8)
    logits = rng.normal(size=(n, 3)) + 0.8 * np.eye(3)[label]
    probability = np.exp(logits)
    return probability / probability.sum(1, keepdims=True), label


def test_scores_are_scikit_learns() -> None:
    probability, label = forecasts()
    found = classification_metrics(probability, label, block=11, seed=0, resamples=50)
    predicted = probability.argmax(1)
    precision, recall, f1, _ = sk.precision_recall_fscore_support(label, predicted, labels=range(3))
    expected = {
        "accuracy": sk.accuracy_score(label, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(label, predicted),
        "macro_f1": sk.f1_score(label, predicted, average="macro"),
        "weighted_f1": sk.f1_score(label, predicted, average="weighted"),
        "mcc": sk.matthews_corrcoef(label, predicted),
        "log_loss": sk.log_loss(label, probability),
        "brier": sk.brier_score_loss(label, probability, labels=range(3), scale_by_half=False),
    }
    for number, name in enumerate(CLASSES):
        expected[f"precision_{name}"] = precision[number]
        expected[f"recall_{name}"] = recall[number]
        expected[f"f1_{name}"] = f1[number]
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, abs=1e-12), name
        low, high = found[name].ci_low, found[name].ci_high
        assert low is not None and high is not None and low < value < high
    assert set(found) == {*expected, "ece"}
    assert (confusion(probability, label) == sk.confusion_matrix(label, predicted)).all()


def test_a_forecast_of_one_class_scores_zero_without_a_warning() -> None:
    label = np.array([0, 1, 2, 1, 1], dtype=np.int8)
    probability = np.tile([0.0, 1.0, 0.0], (5, 1))
    found = classification_metrics(probability, label, block=1, seed=0)
    assert found["mcc"].value == found["precision_up"].value == 0
    assert found["macro_f1"].value == pytest.approx(0.25)
    assert found["log_loss"].value == pytest.approx(sk.log_loss(label, probability), rel=1e-6)


def test_calibration_error_of_known_cases() -> None:
    label = np.array([0] * 7 + [1] * 3, dtype=np.int8)
    right = np.tile([0.7, 0.2, 0.1], (10, 1))
    sure = np.tile([1.0, 0.0, 0.0], (10, 1))
    kwargs = {"block": 1, "seed": 0, "resamples": 0}
    assert classification_metrics(right, label, **kwargs)["ece"].value == pytest.approx(0)
    found = classification_metrics(sure, label, **kwargs)["ece"]
    assert found.value == pytest.approx(0.3) and found.ci_low is None
    table = reliability_table(sure, label)
    assert table[["items", "confidence", "accuracy"]].to_numpy().tolist() == [[10, 1.0, 0.7]]


def test_intervals_cover_the_truth_where_labels_overlap() -> None:
    """Blocks shorter than the dependence give intervals that miss the truth far too often."""
    length, series_of = 20, np.zeros(2000, dtype=np.int64)
    covered = {1: 0, 2 * length: 0}
    for seed in range(60):
        rng = np.random.default_rng(seed)
        right = np.repeat(rng.random(2000 // length) < 0.6, length).astype(int)
        label = np.zeros(2000, dtype=np.int8)
        probability = np.eye(3)[1 - right]
        for block in covered:
            found = classification_metrics(
                probability, label, series_of, block=block, seed=seed, resamples=200
            )["accuracy"]
            assert found.ci_low is not None and found.ci_high is not None
            covered[block] += found.ci_low <= 0.6 <= found.ci_high
    assert covered[1] < 30 and covered[2 * length] >= 50


def test_blocks_stay_within_series_and_draw_items_equally_often() -> None:
    series = np.repeat([4, 1, 9], [50, 3, 27])
    member = (series[:, None] == [4, 1, 9]).astype(float)
    position = np.eye(80)
    means = resampled_means(np.hstack([member, position]), series, block=10, seed=0, resamples=4000)
    assert means[:, 3:].mean(0) == pytest.approx(np.full(80, 1 / 80), rel=0.1)
    blocks = np.round(means[:, :3] * 8, 9)
    assert (blocks == np.round(blocks)).all()


def test_the_same_seed_gives_the_same_bounds() -> None:
    probability, label = forecasts(500)
    one, two, other = (
        classification_metrics(probability, label, block=11, seed=seed) for seed in (1, 1, 2)
    )
    assert one == two != other


def test_a_part_shorter_than_two_blocks_has_no_bounds() -> None:
    probability, label = forecasts(30)
    found = classification_metrics(probability, label, block=16, seed=0)
    assert all(item.ci_low is None for item in found.values())


def test_what_is_not_a_forecast_is_refused() -> None:
    probability, label = forecasts(10)
    broken = probability.copy()
    broken[3, 1] = np.nan
    with pytest.raises(HeedError, match="window 3: the forecast is not finite"):
        classification_metrics(broken, label, block=1, seed=0)
    with pytest.raises(ValueError, match="sum 1"):
        classification_metrics(2 * probability, label, block=1, seed=0)
    with pytest.raises(ValueError, match=r"\(10, 2\)"):
        classification_metrics(probability[:, :2], label, block=1, seed=0)
    with pytest.raises(ValueError, match="labels 0, 1 and 2"):
        classification_metrics(probability, label - 1, block=1, seed=0)

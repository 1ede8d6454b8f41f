"""Calibration and error detection against scikit-learn, sums written out, and known cases."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from domains.medical.calibration import (
    calibration_scores,
    error_detection,
    expected_calibration_error,
    foreground_box,
    pooled_reliability,
    reliability_table,
    risk_coverage,
)


def voxels(seed: int, n: int = 300, levels: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Uncertainties with many ties, and errors that follow them."""
    rng = np.random.default_rng(seed)
    uncertainty = rng.integers(0, levels, n) / levels
    return uncertainty, rng.random(n) < 0.05 + 0.6 * uncertainty


@pytest.mark.parametrize("seed", range(5))
def test_auroc_is_scikit_learns(seed: int) -> None:
    uncertainty, wrong = voxels(seed)
    auroc, _ = error_detection(uncertainty, wrong)
    assert auroc == pytest.approx(roc_auc_score(wrong, uncertainty), abs=1e-12)


def test_aurc_is_the_mean_error_rate_over_coverages() -> None:
    rng = np.random.default_rng(0)
    uncertainty, wrong = rng.permutation(200) / 200, rng.random(200) < 0.3
    order = np.argsort(uncertainty)
    rates = [wrong[order[:k]].mean() for k in range(1, 201)]
    assert error_detection(uncertainty, wrong)[1] == pytest.approx(np.mean(rates))
    coverage, risk = risk_coverage(uncertainty, wrong, points=5)
    assert coverage[-1] == 1.0 and risk[-1] == pytest.approx(wrong.mean())
    assert risk[0] == wrong[order[0]]


def test_ties_are_the_mean_over_random_orders() -> None:
    uncertainty, wrong = voxels(3, n=60, levels=3)
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(4000):
        order = np.lexsort((rng.random(60), uncertainty))
        drawn.append((np.cumsum(wrong[order]) / np.arange(1, 61)).mean())
    assert error_detection(uncertainty, wrong)[1] == pytest.approx(np.mean(drawn), abs=0.004)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6))
def test_the_order_of_voxels_and_a_rescaled_uncertainty_change_nothing(seed: int) -> None:
    uncertainty, wrong = voxels(seed, n=80)
    order = np.random.default_rng(seed).permutation(80)
    found = error_detection(uncertainty, wrong)
    assert error_detection(np.exp(3 * uncertainty[order]), wrong[order]) == pytest.approx(found)


def test_perfect_and_useless_uncertainty() -> None:
    wrong = np.array([False] * 15 + [True] * 5)
    auroc, best = error_detection(wrong.astype(float), wrong)
    assert auroc == 1.0 and best == pytest.approx(sum((k - 15) / k for k in range(16, 21)) / 20)
    assert error_detection(np.zeros(20), wrong) == pytest.approx((0.5, 0.25))
    assert np.isnan(error_detection(np.arange(20), np.zeros(20, dtype=bool))[0])


def test_calibration_error_of_known_cases() -> None:
    rng = np.random.default_rng(0)
    probability = rng.random(400_000)
    truth = rng.random(400_000) < probability
    assert expected_calibration_error(probability, truth) < 0.005
    sure = np.array([1.0] * 10)
    assert expected_calibration_error(sure, np.arange(10) < 7) == pytest.approx(0.3)
    mixed = np.array([0.0] * 30 + [0.9] * 10)
    truth = np.array([0] * 27 + [1] * 3 + [1] * 10)
    assert expected_calibration_error(mixed, truth) == pytest.approx(0.75 * 0.1 + 0.25 * 0.1)


def test_tables_of_cases_add_up() -> None:
    rng = np.random.default_rng(0)
    probability = rng.random(3000) ** 2
    truth = rng.random(3000) < probability
    parts = [reliability_table(probability[s], truth[s]) for s in (np.s_[:700], np.s_[700:])]
    whole = reliability_table(probability, truth)
    summed = pooled_reliability(parts)
    assert summed.columns.tolist() == whole.columns.tolist()
    assert summed.to_numpy() == pytest.approx(whole.to_numpy())


def test_far_background_does_not_decide() -> None:
    truth = np.zeros((60, 60), dtype=np.uint8)
    truth[25:35, 25:35] = 1
    probability = np.where(truth > 0, 0.7, 0.0)
    near = calibration_scores(probability, truth, (1.0, 1.0), margin=5.0)["ece"]
    assert near == pytest.approx(0.3 * 100 / 20**2)
    everywhere = calibration_scores(probability, truth, (1.0, 1.0), margin=None)["ece"]
    assert everywhere == pytest.approx(0.3 * 100 / 60**2)
    assert foreground_box(truth > 0, (2.0, 5.0), 5.0) == (slice(22, 38), slice(24, 36))
    assert foreground_box(truth > 1, (1.0, 1.0), 5.0) == (slice(None), slice(None))


def test_confusing_two_classes_is_an_error_where_the_prediction_is_given() -> None:
    truth = np.ones((6, 6), dtype=np.uint8)
    prediction = truth.copy()
    prediction[:2] = 2
    uncertainty = (prediction == 2).astype(float)
    kwargs = {"uncertainty": uncertainty, "spacing": (1.0, 1.0)}
    probability = np.full((6, 6), 0.9)
    found = calibration_scores(probability, truth, prediction=prediction, **kwargs)
    assert found["uncertainty_auroc"] == 1.0
    assert np.isnan(calibration_scores(probability, truth, **kwargs)["uncertainty_auroc"])

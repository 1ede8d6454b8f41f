"""Calibrated intervals cover what they say, at every step and channel."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import norm

from domains.forecasting.conformal import conformal_offsets, widen

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def draw(windows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian targets whose spread grows with the step, and quantiles far too narrow."""
    rng = np.random.default_rng(seed)
    spread = np.array([1.0, 2.0, 4.0])[:, None] * np.array([1.0, 0.1])
    centre = rng.normal(size=(windows, 3, 2))
    target = centre + spread * rng.normal(size=centre.shape)
    forecast = centre[..., None] + 0.5 * norm.ppf(QUANTILES)
    return forecast, target


def coverage(forecast: np.ndarray, target: np.ndarray, low: int, high: int) -> np.ndarray:
    return ((target >= forecast[..., low]) & (target <= forecast[..., high])).mean(axis=0)


def test_coverage_is_restored_at_every_step_and_channel() -> None:
    forecast, target = draw(4000, 0)
    offsets = conformal_offsets(forecast, target, np.ones(target.shape, bool), QUANTILES)
    fresh, truth = draw(4000, 1)
    before = coverage(fresh, truth, 0, 4)
    assert before.min() < 0.4
    assert before.max() > 0.99
    final = widen(fresh, QUANTILES, json.loads(json.dumps(offsets)))
    np.testing.assert_allclose(coverage(final, truth, 0, 4), 0.9, atol=0.025)
    np.testing.assert_allclose(coverage(final, truth, 1, 3), 0.5, atol=0.04)
    assert (np.diff(final, axis=-1) >= 0).all()


def test_offset_is_the_order_statistic_of_the_paper() -> None:
    outside = np.array([3.0, -1.0, 7.0, 2.0, 5.0, 0.0, 1.0, 4.0, 6.0])
    forecast = np.zeros((9, 1, 1, 2))
    target = outside[:, None, None]
    offsets = conformal_offsets(forecast, target, np.ones((9, 1, 1), bool), (0.1, 0.9))
    expected = sorted(np.maximum(-outside, outside))[8 - 1]
    assert offsets == [[[expected]]]


def test_the_guarantee_holds_on_average_for_few_windows() -> None:
    covered = []
    for seed in range(600):
        forecast, target = draw(20, seed)
        observed = np.ones((19, 3, 2), bool)
        offsets = conformal_offsets(forecast[:19], target[:19], observed, QUANTILES)
        covered.append(coverage(widen(forecast[19:], QUANTILES, offsets), target[19:], 0, 4))
    assert np.mean(covered) >= 0.9 - 0.015


def test_steps_are_pooled_where_windows_are_few() -> None:
    forecast, target = draw(3, 0)
    offsets = np.asarray(conformal_offsets(forecast, target, np.ones((3, 3, 2), bool), QUANTILES))
    assert offsets.shape == (2, 3, 2)
    assert len(np.unique(offsets[0][:, 0])) == 1
    outside = np.maximum(forecast[..., 0] - target, target - forecast[..., 4])
    np.testing.assert_allclose(offsets[0][0], outside.max(axis=(0, 1)), atol=1e-6)


def test_missing_targets_are_left_out() -> None:
    forecast, target = draw(200, 0)
    observed = np.random.default_rng(2).random(target.shape) < 0.6
    spoiled = np.where(observed, target, 1e9)
    missing = np.where(observed, target, np.nan)
    first, second = (
        conformal_offsets(forecast, t, observed, QUANTILES) for t in (spoiled, missing)
    )
    assert first == second
    assert np.abs(first).max() < 100
    nothing = conformal_offsets(forecast, target, np.zeros_like(observed), QUANTILES)
    assert not np.any(nothing)


def test_without_a_central_pair_there_is_nothing_to_calibrate() -> None:
    forecast, target = draw(5, 0)
    assert (
        conformal_offsets(forecast[..., :2], target, np.ones(target.shape, bool), (0.1, 0.5)) == []
    )
    with pytest.raises(ValueError, match="argument"):
        widen(forecast, QUANTILES, [])

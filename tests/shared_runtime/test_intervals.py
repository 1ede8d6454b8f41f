from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import signal, stats

from shared_runtime.intervals import mean_interval


def autoregressive(rng: np.random.Generator, count: int, length: int, phi: float) -> np.ndarray:
    """Return `[count, length]` stationary AR(1) series of mean 0."""
    noise = rng.standard_normal((count, length + 200))
    return signal.lfilter([1.0], [1.0, -phi], noise)[:, 200:]


def coverage(series: np.ndarray, block: int) -> float:
    found = [mean_interval(row, block=block, seed=7, resamples=400) for row in series]
    return float(np.mean([interval.ci_low <= 0 <= interval.ci_high for interval in found]))


def test_blocks_cover_the_mean_of_dependent_errors_where_single_items_do_not() -> None:
    series = autoregressive(np.random.default_rng(0), 300, 1500, 0.9)
    assert 0.88 <= coverage(series, block=60) <= 0.98
    assert coverage(series, block=1) < 0.5


def test_independent_errors_are_covered_at_the_stated_rate() -> None:
    series = np.random.default_rng(1).exponential(size=(400, 300)) - 1
    assert 0.91 <= coverage(series, block=1) <= 0.98


def test_single_items_agree_with_scipy() -> None:
    values = np.random.default_rng(2).gamma(2.0, size=500)
    ours = mean_interval(values, seed=0, resamples=20_000, confidence=0.9)
    peer = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=20_000,
        confidence_level=0.9,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    width = peer.high - peer.low
    assert ours.ci_low == pytest.approx(peer.low, abs=0.03 * width)
    assert ours.ci_high == pytest.approx(peer.high, abs=0.03 * width)


@given(
    values=hnp.arrays(np.float64, st.integers(2, 60), elements=st.floats(-1e6, 1e6)),
    block=st.integers(1, 10),
    shift=st.floats(-1e3, 1e3),
)
def test_it_moves_with_the_values_and_lies_within_them(
    values: np.ndarray, block: int, shift: float
) -> None:
    interval = mean_interval(values, block=block, seed=0, resamples=50)
    moved = mean_interval(values + shift, block=block, seed=0, resamples=50)
    if len(values) < 2 * block:
        assert interval.ci_low is None and interval.ci_high is None
        return
    slack = 1e-8 * (1 + np.abs(values).max() + abs(shift))
    assert values.min() - slack <= interval.ci_low <= interval.ci_high <= values.max() + slack
    assert moved.ci_low == pytest.approx(interval.ci_low + shift, abs=slack)
    assert moved.ci_high == pytest.approx(interval.ci_high + shift, abs=slack)


def test_the_seed_decides_the_draws() -> None:
    values = np.random.default_rng(3).standard_normal(100)
    assert mean_interval(values, seed=1) == mean_interval(values, seed=1)
    assert mean_interval(values, seed=1) != mean_interval(values, seed=2)


@pytest.mark.parametrize(
    ("values", "block", "message"),
    [
        (np.empty(0), 1, r"per_item must be \[n\] with n >= 1, got \(0,\)"),
        (np.zeros((2, 2)), 1, r"got \(2, 2\)"),
        (np.array([1.0, np.nan]), 1, r"per_item\[1\] is nan, expected finite values"),
        (np.zeros(3), 0, "block must be at least 1, got 0"),
    ],
)
def test_bad_input_is_named(values: np.ndarray, block: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mean_interval(values, block=block, seed=0)

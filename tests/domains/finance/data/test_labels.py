"""Labels against loops over their formulas, and against numbers measured on a real hour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from domains.finance.data.labels import Form, class_shares, classes, known_part, movement
from domains.finance.data.thresholds import fit_alpha, width
from shared_runtime.errors import DataError
from tests.domains.finance.aapl_hour import aapl_hour

LABELS = ("tlob", "fi2010", "deeplob", "return")


def prices(rows: int = 90, level: float = 585.0) -> np.ndarray:
    rng = np.random.default_rng(0)
    return level + np.cumsum(rng.integers(-2, 3, rows)) * 0.005


def by_loop(mid: np.ndarray, label: str, h: int, k: int, form: str) -> np.ndarray:
    """Each formula written out for one row at a time."""
    out = np.full(len(mid), np.nan)
    for t in range(len(mid)):
        after = [t + i for i in range(1, h + 1)]
        before = [t]
        if label == "return":
            after = [t + h]
        elif label == "deeplob":
            before = [t - i for i in range(h)]
        elif label == "tlob" and form == "paper":
            after = [t + i for i in range(max(h - k, 0), h + 1)]
            before = [t - i for i in range(k + 1)]
        elif label == "tlob":
            terms = min(k, h)
            after = [t + i for i in range(h - terms + 1, h + 1)]
            before = [t - i for i in range(terms)]
        if min(before) < 0 or max(after) >= len(mid):
            continue
        past = sum(mid[i] for i in before) / len(before)
        out[t] = (sum(mid[i] for i in after) / len(after) - past) / past
    return out


@pytest.mark.parametrize("form", ["paper", "code"])
@pytest.mark.parametrize(("horizon", "smoothing"), [(1, 1), (5, 3), (10, 10), (4, 9)])
@pytest.mark.parametrize("label", LABELS)
def test_movement_is_the_formula(label: str, horizon: int, smoothing: int, form: str) -> None:
    mid = prices()
    mid[40] = np.nan
    got = movement(mid, label, horizon, smoothing, form)
    np.testing.assert_allclose(got, by_loop(mid, label, horizon, smoothing, form), atol=1e-14)
    assert np.isfinite(got).sum() > 20


def test_tlob_without_smoothing_is_the_return() -> None:
    mid = prices()
    np.testing.assert_allclose(
        movement(mid, "tlob", 7, 0), movement(mid, "return", 7, 10), atol=1e-15
    )


@pytest.mark.parametrize("label", ["tlob", "deeplob"])
def test_movement_is_the_known_part_when_the_price_stands_still(label: str) -> None:
    """All of the label is past if the mid does not move after row t."""
    mid = prices()
    mid[50:] = mid[50]
    known = known_part(mid, label, 6, horizon=8)
    np.testing.assert_allclose(movement(mid, label, 8, 6)[50], known[50], rtol=1e-9)
    assert known[50] != 0
    assert not known_part(mid, "fi2010", 6).any()


def test_known_part_reads_no_later_row() -> None:
    mid = prices()
    changed = mid.copy()
    changed[60:] += 1
    for label in LABELS:
        before = known_part(mid, label, 6, horizon=8)[:60]
        np.testing.assert_array_equal(before, known_part(changed, label, 6, horizon=8)[:60])


def test_long_series_at_a_high_price_keep_their_labels() -> None:
    """Cumulative sums over half a million rows lose nothing that a class could see."""
    rng = np.random.default_rng(1)
    mid = 60_000 + np.cumsum(rng.integers(-1, 2, 500_000)) * 0.005
    got = movement(mid, "tlob", 10, 10)[-300:]
    near = movement(mid[-400:], "tlob", 10, 10)[-300:]
    np.testing.assert_allclose(got, near, atol=1e-12)


def test_short_and_empty_books_have_no_label() -> None:
    assert np.isnan(movement(prices(8), "tlob", 10, 10)).all()
    assert np.isnan(movement(np.full(50, np.nan), "tlob", 10, 10)).all()
    assert len(movement(np.zeros(0), "fi2010", 3, 0)) == 0


def test_classes() -> None:
    change = np.array([2.0, 1.0, 0.0, -1.0, -2.0, np.nan])
    assert classes(change, 1.0).tolist() == [0, 1, 1, 1, 2, -1]
    assert classes(change, (-3.0, 0.5)).tolist() == [0, 0, 1, 1, 1, -1]
    assert class_shares(classes(change, 1.0)) == (0.2, 0.6, 0.2)
    assert class_shares(np.array([-1], np.int8)) == (0.0, 0.0, 0.0)


def test_thresholds() -> None:
    change = np.array([-3.0, -1.0, 0.0, 1.0, 5.0, np.nan]) * 1e-4
    spread, mid = np.full(6, 0.02), np.full(6, 100.0)
    assert fit_alpha(change, spread, mid, "mean") == pytest.approx(1e-4)
    assert fit_alpha(change, spread, mid, "spread") == pytest.approx(2e-4)
    assert fit_alpha(change, spread, mid, "sigma", 0.5) == pytest.approx(np.nanstd(change) / 2)
    assert fit_alpha(change, spread, mid, "fixed", 3e-4) == 3e-4
    rng = np.random.default_rng(0)
    skewed = rng.exponential(size=3000) - 0.2
    low, high = fit_alpha(skewed, spread, mid, "tercile")
    assert -low != pytest.approx(high)
    np.testing.assert_allclose(class_shares(classes(skewed, (low, high))), 1 / 3, atol=0.001)
    assert width((low, high)) == pytest.approx((high - low) / 2)
    assert width(0.0) == 1.0


def test_threshold_without_moves_is_refused() -> None:
    still, spread = np.zeros(5), np.full(5, 0.01)
    with pytest.raises(DataError, match="the mid never moves"):
        fit_alpha(still, spread, spread, "mean")
    with pytest.raises(DataError, match="no row has a label"):
        fit_alpha(np.full(3, np.nan), spread, spread, "tercile")


def test_bad_options_are_named() -> None:
    with pytest.raises(ValueError, match="expected tlob, fi2010, deeplob or return, got 'x'"):
        movement(prices(), "x", 1, 1)
    with pytest.raises(ValueError, match="form: expected paper or code"):
        movement(prices(), "tlob", 1, 1, form="x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="horizon: expected at least 1"):
        movement(prices(), "tlob", 0, 1)
    with pytest.raises(ValueError, match="horizon: needed by label 'deeplob'"):
        known_part(prices(), "deeplob", 1)


def macro_f1(truth: np.ndarray, predicted: np.ndarray) -> float:
    scores = []
    for code in range(3):
        right = ((truth == code) & (predicted == code)).sum()
        scores.append(2 * right / ((truth == code).sum() + (predicted == code).sum()))
    return float(np.mean(scores))


@pytest.mark.parametrize(
    ("form", "alphas", "rule"),
    [
        ("paper", [0.157, 0.261, 0.478, 0.741], [64.6, 45.8, 29.2, 22.0]),
        ("code", [0.161, 0.264, 0.480, 0.742], [61.1, 43.9, 28.0, 21.5]),
    ],
)
def test_real_hour_has_the_measured_threshold_and_drift_rule(
    heed_data: Path, form: Form, alphas: list[float], rule: list[float]
) -> None:
    """Chronological 70/10/20, alpha of the training part, k = 10; measured independently."""
    mid = aapl_hour(heed_data).mid
    train, test = np.split(mid, [int(len(mid) * 0.7), int(len(mid) * 0.8)])[::2]
    for horizon, measured_alpha, measured_rule in zip((10, 20, 50, 100), alphas, rule, strict=True):
        change = movement(train, "tlob", horizon, 10, form)
        alpha = fit_alpha(change, train, train, "mean")
        assert isinstance(alpha, float)
        truth = classes(movement(test, "tlob", horizon, 10, form), alpha)
        guess = classes(known_part(test, "tlob", 10, horizon, form), alpha)
        scored = (truth >= 0) & (guess >= 0)
        assert alpha * 1e4 == pytest.approx(measured_alpha, abs=0.0011)
        assert 100 * macro_f1(truth[scored], guess[scored]) == pytest.approx(measured_rule, abs=0.2)
        if horizon == 10 and form == "code":
            shares = class_shares(classes(change, alpha))
            np.testing.assert_allclose(shares, [0.288, 0.434, 0.277], atol=0.001)
            np.testing.assert_allclose(class_shares(truth), [0.261, 0.494, 0.245], atol=0.015)

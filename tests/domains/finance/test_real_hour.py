"""The rules on a real hour: known scores, and a drift that no one can trade on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from domains.finance.backtest import Trading, backtest
from domains.finance.market import Market
from domains.finance.metrics import classification_metrics
from domains.finance.profit import net_interval, summary
from domains.finance.resampling import overlap
from domains.finance.rules import drift_rule

HOUR = "finance/lobster_aapl_1h/aapl_20120621_0930_1030_L10_reconstructed.npz"
SMOOTHING = 10


@pytest.fixture(scope="module")
def hour(heed_data: Path) -> Market:
    with np.load(heed_data / HOUR) as file:
        book, time = file["book"].astype(float), file["time"]
    prices = book[:, 2] / 1e4, book[:, 0] / 1e4
    return Market(
        (time * 1e9).astype(np.int64),
        *prices,
        book[:, 3],
        book[:, 1],
        np.zeros(len(book), dtype=np.int64),
    )


@pytest.mark.parametrize(
    ("horizon", "expected"), [(10, 0.646), (20, 0.458), (50, 0.292), (100, 0.220)]
)
def test_drift_rule_scores_as_known_and_does_not_pay(
    hour: Market, horizon: int, expected: float
) -> None:
    mid, n = hour.mid, len(hour)
    means = np.convolve(mid, np.ones(SMOOTHING + 1) / (SMOOTHING + 1), mode="valid")
    past = means[: n - SMOOTHING - horizon]
    change = means[horizon:] / past - 1
    known = mid[SMOOTHING : n - horizon] / past - 1
    rows = np.arange(SMOOTHING, n - horizon)
    alpha = float(np.abs(change[rows < 0.7 * n]).mean() / 2)
    test = rows >= int(0.8 * n)
    label = np.where(change > alpha, 0, np.where(change < -alpha, 2, 1))[test].astype(np.int8)
    forecast = drift_rule(known[test], alpha)
    block = overlap(horizon, SMOOTHING)
    found = classification_metrics(forecast, label, block=block, seed=0, resamples=100)
    assert found["macro_f1"].value == pytest.approx(expected, abs=0.002)
    ledger = backtest(forecast, rows[test], hour, Trading())
    net = net_interval(ledger, block=block, seed=0, resamples=200)
    assert net.ci_high is not None and net.ci_high < 0
    assert abs(summary(ledger).gross_pnl) < 0.2 * summary(ledger).spread_paid

"""What a ledger amounts to, on results that are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from domains.finance.backtest import Trading, trade
from domains.finance.market import Market
from domains.finance.profit import (
    equity_band,
    increments,
    minute_results,
    net_interval,
    pnl_block,
    summary,
)
from tests.domains.finance.markets import made_up_market, some_signals


def test_summary_of_one_round_trip() -> None:
    bid = np.array([99.0, 100, 102, 101, 101])
    size = np.full(5, 10.0)
    time = np.arange(5) * 600 * 10**9
    market = Market(time, bid, bid + 2, size, size, np.zeros(5, dtype=int))
    ledger = trade(np.array([1, -1]), np.array([0, 2]), market, Trading(latency=0, size=2))
    found = summary(ledger)
    assert ledger.trades["side"].tolist() == [1, -1]
    assert ledger.trades["gross"].tolist() == [6, 2]
    assert (found.gross_pnl, found.spread_paid, found.fees, found.net_pnl) == (8, 8, 0, 0)
    assert (found.trades, found.hit_rate) == (2, 0.5)
    assert found.turnover == 2 * 101 + 4 * 102 + 2 * 103
    assert found.break_even_bps == found.cost_bps == pytest.approx(1e4 * 8 / found.turnover)
    assert ledger.equity.tolist() == [-2, 0, 0, 2, 0] and found.max_drawdown == 2
    assert found.hold_events == 2 and found.hours == pytest.approx(2 / 3)
    assert np.isnan(found.sharpe_hour) and "too short" in found.warning
    assert "sharpe_hour" not in found.numbers() and found.numbers()["trades"] == 2


def test_a_long_ledger_has_a_ratio_of_return_to_risk() -> None:
    market = made_up_market(3000)
    market = replace(market, time=np.arange(3000) * 30 * 10**9)
    found = summary(trade(some_signals(3000), np.arange(3000), market, Trading()))
    assert found.hours == pytest.approx(2999 / 120) and not found.warning
    assert found.numbers()["sharpe_hour"] < 0


def test_at_the_break_even_cost_nothing_is_left() -> None:
    market = made_up_market(3000)
    ahead = np.sign(np.roll(market.mid, -20) - market.mid)[:2980]
    kwargs = {"signal": ahead, "ends": np.arange(2980), "market": market}
    free = trade(**kwargs, trading=Trading())
    found = summary(free)
    spare = found.break_even_bps - found.cost_bps
    assert spare > 0
    at_cost = summary(trade(**kwargs, trading=Trading(fee_bps=spare)))
    assert at_cost.net_pnl == pytest.approx(0, abs=1e-6 * found.gross_pnl)


def test_no_trades_has_no_rates() -> None:
    found = summary(trade(np.zeros(5), np.arange(5), made_up_market(5), Trading()))
    assert found.trades == found.net_pnl == found.max_drawdown == 0
    assert np.isnan(found.hit_rate) and np.isnan(found.break_even_bps)
    assert np.isnan(found.net_bps_per_trade) and np.isnan(found.hold_events)


def test_increments_add_up_by_event_and_by_minute() -> None:
    market = made_up_market(2000, series=3)
    ledger = trade(some_signals(2000), np.arange(2000), market, Trading())
    net = ledger.trades["net"].sum()
    assert increments(ledger).sum() == pytest.approx(net)
    minutes = minute_results(ledger)
    assert minutes.sum() == pytest.approx(net) and 30 < len(minutes) < 100


def test_interval_is_seeded_and_around_the_result() -> None:
    market = made_up_market(5000)
    ledger = trade(some_signals(5000), np.arange(5000), market, Trading())
    one, two, other = (net_interval(ledger, block=30, seed=seed) for seed in (1, 1, 2))
    assert one == two != other
    assert one.ci_low is not None and one.ci_high is not None
    assert one.ci_low < one.value < one.ci_high
    rows, low, high = equity_band(ledger, block=30, seed=1)
    assert rows[-1] == 4999 and (low <= high).all()
    assert low[-1] == pytest.approx(one.ci_low, rel=0.1)


def test_interval_covers_the_expected_result() -> None:
    """Coin tosses cross the spread: the expected result is the spread, and the interval has it."""
    nets, intervals = [], []
    for seed in range(40):
        market = made_up_market(3000, seed)
        ledger = trade(some_signals(3000, seed), np.arange(3000), market, Trading())
        nets.append(ledger.equity[-1])
        intervals.append(net_interval(ledger, block=10, seed=seed, resamples=300))
    expected = np.mean(nets)
    covered = [i.ci_low <= expected <= i.ci_high for i in intervals if i.ci_low is not None]
    assert len(covered) == 40 and sum(covered) >= 34


def test_blocks_are_as_long_as_positions_are_held() -> None:
    market = made_up_market(3000)
    signal = np.zeros(3000)
    signal[::100] = np.tile([1, -1], 15)
    ledger = trade(signal, np.arange(3000), market, Trading())
    assert pnl_block(ledger, 10) > 190
    assert pnl_block(trade(np.zeros(3000), np.arange(3000), market, Trading()), 10) == 10

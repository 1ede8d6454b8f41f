"""Regimes know nothing of the future, and their parts add up to the whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from domains.finance.backtest import Trading, backtest
from domains.finance.regimes import (
    day_parts,
    regime_table,
    regimes,
    thirds,
    trailing_spread,
    trailing_volatility,
)
from domains.finance.rolling import rolling_scores, time_table
from domains.finance.rules import drift_rule
from tests.domains.finance.markets import made_up_market

N = 1000


def forecasts(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, N).astype(np.int8)
    return rng.dirichlet(np.ones(3), N) * 0.5 + 0.5 * np.eye(3)[label], label


def test_parts_of_the_day_have_clock_names() -> None:
    time = np.array([34_200, 35_999, 36_000], dtype=np.int64) * 10**9
    assert day_parts(time).tolist() == ["09:00-10:00", "09:00-10:00", "10:00-11:00"]
    assert day_parts(time, 30)[0] == "09:30-10:00"
    later = day_parts(time + 86_400 * 10**9 * 15_000)
    assert later.tolist() == day_parts(time).tolist()


@pytest.mark.parametrize("measure", [trailing_volatility, trailing_spread])
def test_trailing_measures_equal_a_loop_and_see_no_future(measure) -> None:  # type: ignore[no-untyped-def]
    market = made_up_market(N, series=3, broken=0.2)
    found = measure(market, 50)
    mid, spread = market.marked(market.mid), market.marked(market.spread)
    for row in (15, 200, 555, 999):
        first = market.edges[market.edges <= row].max()
        start = max(first, row - 49)
        if row - first < 9:
            assert np.isnan(found[row])
            continue
        if measure is trailing_spread:
            expected = 1e4 * np.mean((spread / mid)[start : row + 1])
        else:
            change = np.array(
                [mid[i] / mid[i - 1] - 1 if i > first else 0.0 for i in range(start, row + 1)]
            )
            expected = 1e4 * np.sqrt(np.mean(change**2))
        assert found[row] == pytest.approx(expected)
    other = made_up_market(N, seed=5)
    mixed = {
        name: np.where(np.arange(N) < 500, getattr(market, name), getattr(other, name))
        for name in ("bid", "ask", "bid_size", "ask_size")
    }
    np.testing.assert_array_equal(measure(replace(market, **mixed), 50)[:500], found[:500])


def test_thirds_without_bounds_see_no_future() -> None:
    values = np.random.default_rng(0).normal(size=N)
    before = thirds(values)
    assert (before[:50] == "unknown").all() and set(before[50:]) == {"low", "middle", "high"}
    changed = np.where(np.arange(N) < 600, values, values + 100)
    assert (thirds(changed)[:600] == before[:600]).all()
    assert thirds(np.array([np.nan, 0, 1, 2]), (0.5, 1.5)).tolist() == [
        "unknown",
        "low",
        "middle",
        "high",
    ]


def test_the_parts_of_a_regime_add_up() -> None:
    market = made_up_market(N, series=2)
    probability, label = forecasts()
    ends = np.arange(N)
    ledger = backtest(probability, ends, market, Trading())
    groups = regimes(market, ends, train=made_up_market(N, seed=3), names=("one", "two"))
    table = regime_table(groups, probability, label, ends, ledger)
    assert set(table["regime"]) == {"part of day", "volatility", "spread", "series"}
    for _, part in table.groupby("regime"):
        assert part["items"].sum() == N and part["share"].sum() == pytest.approx(1)
        assert part["trades"].sum() == len(ledger.trades)
        assert part["net_pnl"].sum() == pytest.approx(ledger.trades["net"].sum())
        right = (probability.argmax(1) == label).sum()
        assert (part["accuracy"] * part["items"]).sum() == pytest.approx(right)
    assert table.loc[table["regime"] == "series", "part"].tolist() == ["one", "two"]


def test_rolling_blocks_cover_each_series_once() -> None:
    market = made_up_market(N, series=3)
    probability, label = forecasts()
    rule = drift_rule(np.zeros(N), 1.0)
    table = rolling_scores(
        {"model": probability, "drift rule": rule}, label, market.time, market.series, block=90
    )
    model = table[table["model"] == "model"]
    assert model["items"].sum() == N and (model["items"] >= 45).all()
    sizes = model.groupby("series")["items"].sum()
    assert sizes.tolist() == np.diff(market.edges).tolist()
    assert (table[table["model"] == "drift rule"]["mcc"] == 0).all()
    shown = time_table(table, ("a", "b", "c"))
    assert list(shown)[:4] == ["series", "from", "to", "forecasts"]
    assert shown["series"].tolist() == ["abc"[number] for number in model["series"]]
    assert shown["MCC of model"].tolist() == model["mcc"].tolist()
    assert shown["from"][0] == "09:30:00"
    right = (model["accuracy"] * model["items"]).sum()
    assert right == pytest.approx((probability.argmax(1) == label).sum())

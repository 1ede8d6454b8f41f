"""The backtest against a walk event by event, its accounts, and what it may know when."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np
import pytest

from domains.finance.backtest import Ledger, Trading, backtest, trade
from domains.finance.market import Market
from tests.domains.finance.markets import made_up_market, some_signals


@dataclass
class Walk:
    """A trader that lives through the rows one by one and only sees the present one."""

    trading: Trading
    position: float = 0.0
    cash: float = 0.0
    spread: float = 0.0
    fees: float = 0.0
    pending: tuple[int, int] | None = None
    free_at: int = 0
    equity: list[float] = field(default_factory=list)
    held: list[float] = field(default_factory=list)
    fills: list[tuple[int, float, float]] = field(default_factory=list)

    def fill(self, row: int, quantity: float, price: float, mid: float) -> None:
        fee = abs(quantity) * (price * self.trading.fee_bps / 1e4 + self.trading.fee_per_share)
        self.cash -= quantity * price + fee
        self.spread += abs(price - mid) * abs(quantity)
        self.fees += fee
        self.position += quantity
        self.fills.append((row, quantity, price))

    def wanted(self, kind: int) -> float:
        setting = self.trading
        if kind == 0:
            return -self.position if setting.stationary == "close" else 0.0
        along = kind * self.position
        return kind * min(max(along, 0.0) + setting.size, setting.limit) - self.position


def walk(signal: np.ndarray, ends: np.ndarray, market: Market, trading: Trading) -> Walk:
    said = dict(zip(ends.tolist(), signal.tolist(), strict=True))
    state = Walk(trading)
    mark = touch_bid = touch_ask = 0.0
    mark_row = 0
    for row in range(len(market)):
        last_of_series = row + 1 == len(market) or market.series[row + 1] != market.series[row]
        if row and market.series[row] != market.series[row - 1]:
            state.pending, state.free_at, mark = None, 0, 0.0
        bid, ask = market.bid[row], market.ask[row]
        sizes = market.bid_size[row], market.ask_size[row]
        open_book = bid < ask and min(sizes) > 0
        if open_book:
            mark, touch_bid, touch_ask, mark_row = (bid + ask) / 2, bid, ask, row
        for stage in ("arrive", "decide", "arrive"):
            if stage == "decide":
                kind = said.get(row)
                if kind is not None and row >= state.free_at and state.wanted(kind):
                    state.pending = (row + trading.latency, kind)
                    state.free_at = row + max(trading.latency, 1)
            elif state.pending and state.pending[0] == row:
                quantity = state.wanted(state.pending[1])
                if open_book and not last_of_series:
                    shown = sizes[1] if quantity > 0 else sizes[0]
                    filled = float(np.sign(quantity)) * min(abs(quantity), shown)
                    state.fill(row, filled, ask if quantity > 0 else bid, mark)
                    sent = row - trading.latency
                    state.free_at = sent + max(trading.latency, trading.min_hold, 1)
                state.pending = None
        if last_of_series and state.position:
            price = touch_bid if state.position > 0 else touch_ask
            state.fill(mark_row, -state.position, price, mark)
        state.held.append(state.position)
        state.equity.append(state.cash + state.position * mark)
    return state


SETTINGS = [
    Trading(
        latency=latency,
        size=3,
        max_position=limit,
        fee_bps=0.5,
        fee_per_share=0.003,
        min_hold=hold,
        stationary=stationary,
    )
    for latency, limit, hold, stationary in product((0, 1, 4), (0, 7), (1, 6), ("hold", "close"))
]


@pytest.mark.parametrize("trading", SETTINGS, ids=str)
def test_equals_a_walk_event_by_event(trading: Trading) -> None:
    for seed in range(4):
        market = made_up_market(300, seed, series=1 + seed, broken=0.2)
        ends = np.flatnonzero(np.random.default_rng(seed).random(300) < 0.8)
        signal = some_signals(len(ends), seed)
        expected = walk(signal, ends, market, trading)
        found = trade(signal, ends, market, trading)
        tail = market.last_tradeable[market.edges[1:] - 1]
        settled = np.ones(300, dtype=bool)
        for stop, last in zip(market.edges[1:], tail, strict=True):
            settled[last:stop] = False
        np.testing.assert_allclose(found.position[settled], np.array(expected.held)[settled])
        np.testing.assert_allclose(found.equity[settled], np.array(expected.equity)[settled])
        assert found.equity[-1] == pytest.approx(expected.cash)
        assert found.trades["spread"].sum() == pytest.approx(expected.spread)
        assert found.trades["fee"].sum() == pytest.approx(expected.fees)
        assert len(expected.fills) > 10
        assert_accounts(found)


def assert_accounts(ledger: Ledger) -> None:
    trades, market = ledger.trades, ledger.market
    np.testing.assert_allclose(
        trades["net"], trades["gross"] - trades["spread"] - trades["fee"], rtol=0, atol=0
    )
    profit = trades["side"] * trades["size"] * (trades["close_price"] - trades["open_price"])
    np.testing.assert_allclose(trades["gross"] - trades["spread"], profit, atol=1e-9)
    assert ledger.equity[-1] == pytest.approx(trades["net"].sum(), abs=1e-9)
    last = market.edges[1:] - 1
    assert (ledger.position[last] == 0).all()
    assert (np.abs(ledger.position) <= ledger.trading.limit + 1e-9).all()
    assert (ledger.liquidation <= ledger.equity + 1e-9).all()
    np.testing.assert_allclose(ledger.liquidation[last], ledger.equity[last], atol=1e-9)
    assert (trades["size"] > 0).all() and (trades["close_row"] >= trades["open_row"]).all()
    within = market.series[trades["open_row"]] == market.series[trades["close_row"]]
    assert within.all() and (trades["series"] == market.series[trades["open_row"]]).all()


def test_accounts_are_exact_where_sums_of_prices_are() -> None:
    market = made_up_market()
    ledger = trade(some_signals(400), np.arange(400), market, Trading())
    trades = ledger.trades
    assert ledger.equity[-1] == trades["net"].sum()
    assert trades["net"].sum() == trades["gross"].sum() - trades["spread"].sum()


def test_without_signals_nothing_happens() -> None:
    ledger = trade(np.zeros(400), np.arange(400), made_up_market(), Trading(fee_bps=1))
    assert ledger.trades.empty and not ledger.equity.any() and not ledger.position.any()
    empty = np.zeros(0, dtype=np.int64)
    assert trade(empty, empty, made_up_market(), Trading()).trades.empty


def test_always_long_earns_the_change_of_price_less_costs() -> None:
    market = made_up_market()
    size = np.full(400, np.nan)
    market = replace(market, bid_size=size, ask_size=size)
    up = np.tile([1.0, 0.0, 0.0], (400, 1))
    ledger = backtest(up, np.arange(400), market, Trading(size=10, fee_per_share=0.01))
    (only,) = ledger.trades.itertuples()
    assert (only.open_row, only.close_row, only.at_end) == (1, 399, True)
    assert only.net == pytest.approx(10 * (market.bid[399] - market.ask[1] - 0.02))
    assert only.gross == pytest.approx(10 * (market.mid[399] - market.mid[1]))


def test_foresight_earns_and_its_mirror_loses() -> None:
    market = made_up_market(2000)
    ahead = np.sign(np.roll(market.mid, -20) - market.mid)[:1980]
    ends = np.arange(1980)
    assert trade(ahead, ends, market, Trading()).equity[-1] > 0
    assert trade(-ahead, ends, market, Trading()).equity[-1] < 0


def test_foresight_is_worth_less_the_later_it_arrives() -> None:
    results = []
    for latency in (0, 2, 5, 10, 20):
        nets = []
        for seed in range(10):
            market = made_up_market(2000, seed)
            ahead = np.sign(np.roll(market.mid, -20) - market.mid)[:1980]
            ledger = trade(ahead, np.arange(1980), market, Trading(latency=latency, min_hold=20))
            nets.append(ledger.equity[-1])
        results.append(np.mean(nets))
    assert (np.diff(results) < 0).all()


@pytest.mark.parametrize("trading", SETTINGS[::5], ids=str)
def test_the_future_changes_nothing_that_was_done(trading: Trading) -> None:
    market = made_up_market(300, broken=0.2)
    other = made_up_market(300, seed=9, broken=0.2)
    signal, ends = some_signals(300), np.arange(300)
    before = trade(signal, ends, market, trading)
    for cut in (50, 151, 297):
        mixed = Market(
            market.time,
            *(
                np.where(ends < cut, getattr(market, name), getattr(other, name))
                for name in ("bid", "ask", "bid_size", "ask_size")
            ),
            market.series,
        )
        changed = np.where(ends < cut, signal, -signal)
        after = trade(changed, ends, mixed, trading)
        np.testing.assert_array_equal(after.position[:cut], before.position[:cut])
        np.testing.assert_array_equal(after.equity[:cut], before.equity[:cut])


def test_no_order_meets_a_locked_crossed_or_empty_book() -> None:
    market = made_up_market(600, broken=0.5)
    ledger = trade(some_signals(600), np.arange(600), market, Trading(latency=1))
    rows = np.concatenate([ledger.trades["open_row"], ledger.trades["close_row"]])
    assert market.tradeable[rows].all() and len(rows) > 20
    shut = replace(market, bid=np.full(600, np.nan))
    assert trade(some_signals(600), np.arange(600), shut, Trading()).trades.empty


def test_orders_are_limited_to_the_size_shown() -> None:
    market = made_up_market()
    signal = np.zeros(400)
    signal[[10, 20]] = 1, -1
    ledger = trade(signal, np.arange(400), market, Trading(size=1000))
    assert ledger.position[11] == market.ask_size[11]
    assert ledger.position[21] == market.ask_size[11] - market.bid_size[21]


def test_what_makes_no_sense_is_refused() -> None:
    market = made_up_market()
    with pytest.raises(ValueError, match="ascending ends"):
        trade(np.ones(2), np.array([5, 5]), market, Trading())
    with pytest.raises(ValueError, match="400 rows of the market"):
        trade(np.ones(2), np.array([5, 400]), market, Trading())
    with pytest.raises(ValueError, match="min_hold"):
        Trading(min_hold=0)
    with pytest.raises(ValueError, match="one shape"):
        replace(market, bid=market.bid[1:])

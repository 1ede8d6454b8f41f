"""What a ledger amounts to: profit, costs, risk, and how sure the net result is."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from domains.finance.backtest import Ledger
from domains.finance.resampling import resampled_means, resampled_paths
from shared_runtime.domain import Interval

MINUTE = 60 * 10**9
SHORT_HOURS = 20.0
"""Hours below which a ratio of return to risk says next to nothing."""


@dataclass(frozen=True)
class Summary:
    """The result of a backtest, in the currency of the prices unless a name says otherwise.

    Attributes:
        gross_pnl: at mid prices.
        spread_paid: for crossing the spread.
        fees: paid.
        net_pnl: gross less spread and fees.
        trades: from flat to flat.
        hit_rate: share of trades with a positive net result.
        turnover: sum of price times size over all sides.
        max_drawdown: largest fall of the equity from its highest so far.
        net_bps_per_trade: mean net result of a trade, in basis points of its opening value.
        cost_bps: spread and fees paid per side, in basis points of the turnover.
        break_even_bps: cost per side at which the net result would be zero, as `cost_bps`; below
            zero where forecasts lose even at mid prices; NaN without trades.
        hold_events: median rows between opening and closing.
        hours: time covered.
        sharpe_hour: mean over standard deviation of the result of a minute, times the root of 60;
            NaN below 30 minutes.
        warning: why `sharpe_hour` is not to be relied on; empty where nothing is known against it.
    """

    gross_pnl: float
    spread_paid: float
    fees: float
    net_pnl: float
    trades: int
    hit_rate: float
    turnover: float
    max_drawdown: float
    net_bps_per_trade: float
    cost_bps: float
    break_even_bps: float
    hold_events: float
    hours: float
    sharpe_hour: float
    warning: str

    def numbers(self) -> dict[str, float]:
        """Return every number by name, but not a `sharpe_hour` that needs its warning beside it."""
        left_out = {"warning", "sharpe_hour"} if self.warning else {"warning"}
        return {name: float(value) for name, value in asdict(self).items() if name not in left_out}


def summary(ledger: Ledger) -> Summary:
    """Return what `ledger` amounts to."""
    trades, equity = ledger.trades, ledger.equity
    gross, spread, fees = (float(trades[name].sum()) for name in ("gross", "spread", "fee"))
    count = len(trades)
    opened = trades["open_price"] * trades["size"]
    hours = _hours(ledger)
    minutes = minute_results(ledger)
    ratio = float("nan")
    if len(minutes) >= 30 and minutes.std() > 0:
        ratio = float(minutes.mean() / minutes.std() * np.sqrt(60))
    short = f"{hours:.1f} hours are too short for a ratio of return to risk"
    highest = np.maximum.accumulate(np.maximum(equity, 0.0))
    return Summary(
        gross_pnl=gross,
        spread_paid=spread,
        fees=fees,
        net_pnl=float(trades["net"].sum()),
        trades=count,
        hit_rate=float((trades["net"] > 0).mean()) if count else float("nan"),
        turnover=ledger.traded,
        max_drawdown=float((highest - equity).max(initial=0.0)),
        net_bps_per_trade=1e4 * float((trades["net"] / opened).mean()) if count else float("nan"),
        cost_bps=1e4 * (spread + fees) / ledger.traded if count else float("nan"),
        break_even_bps=1e4 * gross / ledger.traded if count else float("nan"),
        hold_events=float((trades["close_row"] - trades["open_row"]).median()),
        hours=hours,
        sharpe_hour=ratio,
        warning=short if hours < SHORT_HOURS else "",
    )


def net_interval(ledger: Ledger, *, block: int, seed: int, resamples: int = 1000) -> Interval:
    """Return the net result with the 95 % interval of a circular block bootstrap over time.

    Blocks are of neighbouring events of one series, at least `pnl_block(ledger, block)` of them.
    The interval says how the result would vary over stretches of the same length that are like
    this one; it knows nothing of days unlike it.
    """
    value = float(ledger.trades["net"].sum())
    length = pnl_block(ledger, block)
    count = len(ledger.equity)
    if count < 2 * length or ledger.trades.empty:
        return Interval(value)
    means = resampled_means(
        increments(ledger)[:, None],
        ledger.market.series,
        block=length,
        seed=seed,
        resamples=resamples,
    )
    low, high = np.quantile(means[:, 0] * count, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def equity_band(
    ledger: Ledger, *, block: int, seed: int, resamples: int = 1000
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rows and the 2.5 and 97.5 % quantiles of resampled equity there."""
    rows, paths = resampled_paths(
        increments(ledger),
        ledger.market.series,
        block=pnl_block(ledger, block),
        seed=seed,
        resamples=resamples,
    )
    low, high = np.quantile(paths, [0.025, 0.975], axis=0)
    return rows, low, high


def pnl_block(ledger: Ledger, block: int) -> int:
    """Return `block`, or twice the mean holding time where that is longer."""
    trades = ledger.trades
    if trades.empty:
        return block
    held = float((trades["close_row"] - trades["open_row"]).mean())
    return max(block, min(int(2 * held) + 1, len(ledger.equity) // 10), 1)


def increments(ledger: Ledger) -> np.ndarray:
    """Return the change of equity at each row, `[M]`."""
    return np.diff(ledger.equity, prepend=0.0)


def minute_results(ledger: Ledger) -> np.ndarray:
    """Return the change of equity in each minute of each series."""
    minute = ledger.market.time // MINUTE
    new = np.ones(len(minute), dtype=bool)
    series = ledger.market.series
    new[1:] = (minute[1:] != minute[:-1]) | (series[1:] != series[:-1])
    return np.add.reduceat(increments(ledger), np.flatnonzero(new)) if len(new) else np.zeros(0)


def _hours(ledger: Ledger) -> float:
    edges, time = ledger.market.edges, ledger.market.time
    return float((time[edges[1:] - 1] - time[edges[:-1]]).sum() / (60 * MINUTE))

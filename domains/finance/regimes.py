"""Where and when forecasts work: scores by part of the day, volatility, spread and series.

Regimes use only what is known when a forecast is made. Their bounds come from the training part or,
where none is given, from the earlier rows of the same part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from domains.finance.backtest import Ledger
from domains.finance.market import Market
from domains.finance.metrics import accuracy, item_sums, macro_f1, mcc
from domains.finance.rules import terciles
from domains.finance.signals import signals
from domains.finance.transactions import transaction_counts

LEVELS = ("low", "middle", "high")
_HOUR = 3600 * 10**9
_DAY = 24 * _HOUR
_PARTS = 20


def day_parts(time: np.ndarray, minutes: int = 60) -> np.ndarray:
    """Return the part of the day of each row, such as `09:30-10:00`; `time` in nanoseconds."""
    width = minutes * 60 * 10**9
    part = (time % _DAY) // width
    numbers, place = np.unique(part, return_inverse=True)
    names = [f"{_clock(n * width)}-{_clock((n + 1) * width)}" for n in numbers.tolist()]
    return np.array(names, dtype=object)[place]


def trailing_volatility(market: Market, window: int = 500) -> np.ndarray:
    """Return the root mean square change of the mid, in basis points an event, `[M]`.

    Over the last `window` rows of the same series, the present one included; NaN for fewer than
    ten rows. Rows that are not tradeable have the mid of the last one that was.
    """
    mid = market.marked(market.mid)
    change = np.zeros(len(mid))
    seen = mid[:-1] > 0
    change[1:][seen] = 1e4 * (mid[1:][seen] / mid[:-1][seen] - 1)
    change[market.edges[:-1]] = 0.0
    return np.sqrt(_trailing_mean(change**2, market, window))


def trailing_spread(market: Market, window: int = 500) -> np.ndarray:
    """Return the mean spread over the last `window` rows of the series, in basis points, `[M]`."""
    mid = market.marked(market.mid)
    spread = np.divide(market.marked(market.spread), mid, out=np.zeros(len(mid)), where=mid > 0)
    return 1e4 * _trailing_mean(spread, market, window)


def thirds(values: np.ndarray, bounds: tuple[float, float] | None = None) -> np.ndarray:
    """Return `low`, `middle`, `high` or, where not known, `unknown` for each value.

    Args:
        values: `[n]`, in time order.
        bounds: `terciles` of the training part. None takes, for each twentieth of the values, the
            terciles of the values before it; the first twentieth is `unknown`.
    """
    if bounds is not None:
        return _named(values, *bounds)
    names = np.full(len(values), "unknown", dtype=object)
    cuts = np.linspace(0, len(values), _PARTS + 1).astype(int)
    for start, stop in pairwise(cuts[1:].tolist()):
        if np.isfinite(values[:start]).any():
            names[start:stop] = _named(values[start:stop], *terciles(values[:start]))
    return names


def regimes(
    market: Market,
    ends: np.ndarray,
    *,
    train: Market | None = None,
    window: int = 500,
    minutes: int = 0,
    names: Sequence[str] | None = None,
) -> dict[str, np.ndarray]:
    """Return the regimes of each forecast: `part of day`, `volatility`, `spread`, `series`.

    Without a clock there is no part of the day.

    Args:
        market: M rows.
        ends: int64 `[n]`, rows after which the forecasts are made.
        train: the training part's market, which gives the bounds.
        window: rows that volatility and spread look back over.
        minutes: length of a part of the day; 0 is an hour, or ten minutes where the forecasts lie
            within two hours of the day.
        names: name of each series number, such as instrument and day.
    """
    owner, clock = market.series[ends], market.time[ends] % _DAY
    minutes = minutes or (60 if len(ends) == 0 or np.ptp(clock) > 2 * _HOUR else 10)
    found = {"part of day": day_parts(market.time[ends], minutes)} if market.clocked else {}
    for name, measure in (("volatility", trailing_volatility), ("spread", trailing_spread)):
        bounds = None if train is None else terciles(measure(train, window))
        found[name] = thirds(measure(market, window)[ends], bounds)
    label = owner.astype(str).astype(object) if names is None else np.array(names, object)[owner]
    return found | {"series": label}


def regime_table(
    groups: Mapping[str, np.ndarray],
    probability: np.ndarray,
    label: np.ndarray,
    ends: np.ndarray,
    ledger: Ledger,
    *,
    threshold: float | None = None,
) -> pd.DataFrame:
    """Return scores and net result within each regime.

    Trades and transactions count where they were decided on: a trade at the last forecast at
    least `latency` before its opening, a transaction at its closing. Columns: `regime`, `part`,
    `items`, `share`, `macro_f1`, `mcc`, `accuracy`, `p_t`, `trades`, `net_pnl`,
    `net_bps_per_trade`.

    Args:
        groups: of `regimes`.
        probability: `[n, 3]`.
        label: classes `[n]`.
        ends: int64 `[n]`.
        ledger: of the same forecasts.
        threshold: of `signals`.
    """
    sums = item_sums(probability, label)
    series = ledger.market.series[ends]
    counts = transaction_counts(signals(probability, threshold), label, series)
    trades = ledger.trades
    decided = trades["open_row"].to_numpy() - ledger.trading.latency
    item = np.searchsorted(ends, decided, side="right") - 1
    net = trades["net"].to_numpy()
    rate = 1e4 * net / (trades["open_price"] * trades["size"]).to_numpy()
    rows = []
    for regime, part in groups.items():
        for name in _order(part):
            inside = part == name
            of_trades = inside[item]
            total = sums[inside].sum(axis=0)
            possible, made, correct, _ = counts[inside].sum(axis=0)
            union = possible + made - correct
            rows.append(
                {
                    "regime": regime,
                    "part": name,
                    "items": int(inside.sum()),
                    "share": float(inside.mean()),
                    "macro_f1": float(macro_f1(total)),
                    "mcc": float(mcc(total)),
                    "accuracy": float(accuracy(total)),
                    "p_t": correct / union if union else 0.0,
                    "trades": int(of_trades.sum()),
                    "net_pnl": float(net[of_trades].sum()),
                    "net_bps_per_trade": float(rate[of_trades].mean())
                    if of_trades.any()
                    else float("nan"),
                }
            )
    return pd.DataFrame(rows)


def _trailing_mean(values: np.ndarray, market: Market, window: int) -> np.ndarray:
    total = np.concatenate([[0.0], np.cumsum(values)])
    rows = np.arange(len(values))
    first = np.repeat(market.edges[:-1], np.diff(market.edges))
    start = np.maximum(rows + 1 - window, first)
    count = rows + 1 - start
    mean = np.maximum(total[rows + 1] - total[start], 0.0) / count
    return np.where(rows + 1 - first >= 10, mean, np.nan)


def _named(values: np.ndarray, low: float, high: float) -> np.ndarray:
    names = np.array(LEVELS, dtype=object)[np.searchsorted([low, high], np.nan_to_num(values))]
    names[~np.isfinite(values)] = "unknown"
    return names


def _order(part: np.ndarray) -> list[str]:
    present = set(part.tolist())
    known = [name for name in LEVELS if name in present]
    return known + sorted(present.difference(known))


def _clock(nanoseconds: int) -> str:
    minutes = nanoseconds // (60 * 10**9)
    return f"{minutes // 60:02d}:{minutes % 60:02d}"

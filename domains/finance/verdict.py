"""The verdict on a model: is it right, is it better than a rule, and does it pay its costs?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from domains.finance.backtest import Ledger, Trading, backtest
from domains.finance.market import Market
from domains.finance.metrics import (
    CLASSES,
    class_table,
    classification_metrics,
    item_sums,
    macro_f1,
    reliability_table,
)
from domains.finance.profit import Summary, net_interval, summary
from domains.finance.regimes import regime_table, regimes
from domains.finance.resampling import overlap, resampled_means
from domains.finance.rolling import rolling_scores, time_table
from domains.finance.signals import signals
from domains.finance.transactions import threshold_table, transaction_counts, transaction_metrics
from domains.finance.wording import paragraph
from shared_runtime.domain import Figure, Interval

BUY_AND_HOLD = "buy and hold"
DRIFT_RULE = "drift rule"
"""Name under which `rules.drift_rule` is always drawn where it is among the forecasts."""
OF_PROBABILITIES = ("log_loss", "brier", "ece")
"""Scores that a rule, which is sure of all it says, is not given."""
_HEADLINES = ("macro_f1", "mcc", "p_t", "net_pnl", "accuracy", "weighted_f1")
SHOWN = (*_HEADLINES, "log_loss", "ece", "gross_pnl", "spread_paid", "fees", "trades")
"""Scores of the table in reports and terminals; `verdict.csv` and `metrics.json` hold all."""
_DETAILS = frozenset({"hold_events", "hours", "turnover"})
"""Numbers of the long table that are no scores."""
_LONG = ["section", "name", "model", "value", "ci_low", "ci_high"]


@dataclass(frozen=True, kw_only=True)
class Part:
    """What forecasts of one part of the data are scored against.

    Attributes:
        market: level 1 of the part's rows, M.
        ends: int64 `[n]`, row after which each forecast is made, ascending.
        label: classes `[n]`.
        horizon: rows that labels look ahead.
        smoothing: rows of the means in the labels.
        train: market of the training part, for the bounds of regimes; None uses earlier rows.
        names: of the series numbers, such as instrument and day.
        money: whether prices are prices. Normalised ones (FI-2010) cannot be traded.
    """

    market: Market
    ends: np.ndarray
    label: np.ndarray
    horizon: int
    smoothing: int = 0
    train: Market | None = None
    names: tuple[str, ...] | None = None
    money: bool = True

    @property
    def series(self) -> np.ndarray:
        """Series of each forecast, `[n]`."""
        return self.market.series[self.ends]

    @property
    def block(self) -> int:
        """Neighbouring forecasts whose labels overlap."""
        return overlap(self.horizon, self.smoothing)


@dataclass(frozen=True)
class Verdict:
    """What the scores and the backtest say.

    Attributes:
        text: a few paragraphs for a trader.
        metrics: of the model, with 95 % intervals; headlines first.
        baselines: the same numbers of what it is compared with.
        tables: for the report: trades and costs, classes, transactions, regimes, time.
        long: one row per number: `section`, `name`, `model`, `value`, `ci_low`, `ci_high`.
        over_time: of `rolling.rolling_scores`, every forecast.
        ledgers: backtests by name, the model's first; empty where prices are not prices.
    """

    text: str
    metrics: Mapping[str, Interval]
    baselines: Mapping[str, Mapping[str, float]]
    tables: Mapping[str, pd.DataFrame]
    long: pd.DataFrame
    over_time: pd.DataFrame
    ledgers: Mapping[str, Ledger] = field(default_factory=dict)


def verdict(
    forecasts: Mapping[str, np.ndarray],
    part: Part,
    *,
    trading: Trading | None = None,
    seed: int,
    resamples: int = 1000,
) -> Verdict:
    """Score and trade a model beside rules, and say what comes of it.

    Args:
        forecasts: `[n, 3]` probabilities by name: the model first, then rules and baselines.
        part: what they are scored against.
        trading: how they are traded.
        seed: of the bootstraps, the same draws for every forecast.
        resamples: number of bootstrap samples; 0 gives no bounds.

    Raises:
        ValueError: there is no forecast.
    """
    if not forecasts:
        raise ValueError("verdict: expected the forecasts of a model, got none")
    trading = trading or Trading()
    model = next(iter(forecasts))
    ledgers = _ledgers(forecasts, part, trading) if part.money else {}
    summaries = {name: summary(ledger) for name, ledger in ledgers.items()}
    scores = {
        name: _headlines_first(
            _scores(probability, part, trading, seed, resamples)
            | _money(ledgers, summaries, name, part, seed, resamples)
        )
        for name, probability in forecasts.items()
    }
    if BUY_AND_HOLD in ledgers:
        scores[BUY_AND_HOLD] = _money(ledgers, summaries, BUY_AND_HOLD, part, seed, resamples)
    over_time = rolling_scores(forecasts, part.label, part.market.time[part.ends], part.series)
    tables = _tables(forecasts, scores, summaries, ledgers, part, trading)
    tables["Over time"] = time_table(over_time, part.names)
    rivals = [name for name in forecasts if name != model]
    best = max(rivals, key=lambda name: scores[name]["macro_f1"].value, default=None)
    lead = None
    if best is not None:
        pair = (forecasts[model], forecasts[best])
        lead = macro_f1_lead(*pair, part, seed=seed, resamples=resamples)
    counts = transaction_counts(
        signals(forecasts[model], trading.threshold), part.label, part.series
    )
    return Verdict(
        paragraph(
            model=model,
            scores=scores,
            best=best,
            lead=lead,
            shares=(np.bincount(part.label, minlength=3) / len(part.label)).tolist(),
            transactions=counts.sum(axis=0).astype(int).tolist(),
            horizon=part.horizon,
            items=len(part.label),
            summary=summaries.get(model),
            held=summaries.get(BUY_AND_HOLD),
            trading=trading,
        ),
        {score: item for score, item in scores[model].items() if score not in _DETAILS},
        {
            name: {score: i.value for score, i in found.items() if score not in _DETAILS}
            for name, found in scores.items()
            if name != model
        },
        tables,
        _long(scores, tables | {"Over time": over_time}, part),
        over_time,
        ledgers,
    )


def macro_f1_lead(
    probability: np.ndarray, other: np.ndarray, part: Part, *, seed: int, resamples: int = 1000
) -> Interval:
    """Return by how much `probability` has the better macro-F1, both on the same resamples."""
    sums = [item_sums(forecast, part.label) for forecast in (probability, other)]
    value = float(macro_f1(sums[0].sum(axis=0)) - macro_f1(sums[1].sum(axis=0)))
    if not resamples or len(part.label) < 2 * part.block:
        return Interval(value)
    first, second = (
        macro_f1(resampled_means(s, part.series, block=part.block, seed=seed, resamples=resamples))
        for s in sums
    )
    low, high = np.quantile(first - second, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def verdict_figures(
    found: Verdict, forecasts: Mapping[str, np.ndarray], part: Part, *, seed: int
) -> list[Figure]:
    """Return the pictures of a verdict, for the same arguments."""
    from domains.finance import figures

    probability = next(iter(forecasts.values()))
    pictures = []
    if part.money:
        model, *rivals = forecasts
        best = max(rivals, key=lambda name: found.baselines[name]["macro_f1"], default=model)
        names = dict.fromkeys((model, best, DRIFT_RULE, BUY_AND_HOLD))
        shown = {name: found.ledgers[name] for name in names if name in found.ledgers}
        every = {name: summary(ledger) for name, ledger in found.ledgers.items()}
        pictures += [
            figures.equity_figure(shown, block=part.block, seed=seed),
            figures.costs_figure(every),
            figures.excerpt_figure(part.market, part.ends, probability, part.label),
        ]
    pictures += [
        figures.confusion_figure(probability, part.label),
        figures.reliability_figure(probability, part.label),
    ]
    if found.over_time["block"].nunique() > 1:
        pictures.append(figures.rolling_figure(found.over_time))
    if part.money:
        pictures.append(figures.regime_figure(found.tables["By regime"]))
    return pictures


def _ledgers(
    forecasts: Mapping[str, np.ndarray], part: Part, trading: Trading
) -> dict[str, Ledger]:
    found = {
        name: backtest(probability, part.ends, part.market, trading)
        for name, probability in forecasts.items()
    }
    always = np.tile([1.0, 0.0, 0.0], (len(part.ends), 1))
    return found | {BUY_AND_HOLD: backtest(always, part.ends, part.market, trading)}


def _scores(
    probability: np.ndarray, part: Part, trading: Trading, seed: int, resamples: int
) -> dict[str, Interval]:
    drawn = {"block": part.block, "seed": seed, "resamples": resamples}
    found = classification_metrics(probability, part.label, part.series, **drawn)
    if probability.max(axis=1).min() >= 1:
        found = {name: item for name, item in found.items() if name not in OF_PROBABILITIES}
    return found | transaction_metrics(
        probability, part.label, part.series, threshold=trading.threshold, **drawn
    )


def _headlines_first(found: dict[str, Interval]) -> dict[str, Interval]:
    return {name: found[name] for name in _HEADLINES if name in found} | found


def _money(
    ledgers: Mapping[str, Ledger],
    summaries: Mapping[str, Summary],
    name: str,
    part: Part,
    seed: int,
    resamples: int,
) -> dict[str, Interval]:
    if name not in ledgers:
        return {}
    numbers = summaries[name].numbers()
    found = {key: Interval(value) for key, value in numbers.items() if np.isfinite(value)}
    if resamples:
        found["net_pnl"] = net_interval(
            ledgers[name], block=part.block, seed=seed, resamples=resamples
        )
    return found


def _tables(
    forecasts: Mapping[str, np.ndarray],
    scores: Mapping[str, Mapping[str, Interval]],
    summaries: Mapping[str, Summary],
    ledgers: Mapping[str, Ledger],
    part: Part,
    trading: Trading,
) -> dict[str, pd.DataFrame]:
    model, probability = next(iter(forecasts.items()))
    tables = {}
    if summaries:
        tables["Trades and costs"] = pd.DataFrame(
            [
                {"model": name}
                | {
                    column: getattr(item, column)
                    for column in (
                        "trades",
                        "gross_pnl",
                        "spread_paid",
                        "fees",
                        "net_pnl",
                        "cost_bps",
                        "break_even_bps",
                        "hit_rate",
                        "max_drawdown",
                    )
                }
                for name, item in summaries.items()
            ]
        )
    tables["Classes"] = class_table(scores[model], part.label)
    tables["Complete transactions by threshold"] = threshold_table(
        probability, part.label, part.series
    )
    if ledgers:
        groups = regimes(part.market, part.ends, train=part.train, names=part.names)
        tables["By regime"] = regime_table(
            groups,
            probability,
            part.label,
            part.ends,
            ledgers[model],
            threshold=trading.threshold,
        )
    tables["Calibration"] = reliability_table(probability, part.label)
    return tables


def _long(
    scores: Mapping[str, Mapping[str, Interval]], tables: Mapping[str, pd.DataFrame], part: Part
) -> pd.DataFrame:
    model = next(iter(scores))
    rows: list[tuple[str, str, str, float, float | None, float | None]] = []
    money = set(Summary.__dataclass_fields__)
    for name, found in scores.items():
        for score, item in found.items():
            section = "trading" if score in money else "score"
            rows.append((section, score, name, item.value, item.ci_low, item.ci_high))
    shares = np.bincount(part.label, minlength=3) / len(part.label)
    for label, share in zip(CLASSES, shares.tolist(), strict=True):
        rows.append(("labels", f"share_{label}", "", share, None, None))
    keys = {
        "By regime": ("regime", ("regime", "part")),
        "Complete transactions by threshold": ("threshold", ("threshold",)),
        "Calibration": ("calibration", ("from",)),
        "Over time": ("time", ("block",)),
    }
    for title, (section, labels) in keys.items():
        for record in tables.get(title, pd.DataFrame()).to_dict("records"):
            place = "/".join(str(record.pop(key)) for key in labels)
            owner = str(record.pop("model", model))
            for column, value in record.items():
                rows.append((section, f"{place}/{column}", owner, float(value), None, None))
    table = pd.DataFrame(rows, columns=_LONG)
    return table.astype({"value": float, "ci_low": float, "ci_high": float})

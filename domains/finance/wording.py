"""The verdict in words, for a reader who trades."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from domains.finance.backtest import Trading
from domains.finance.profit import SHORT_HOURS, Summary
from shared_runtime.domain import Interval

_PERCENT = "95\N{NO-BREAK SPACE}%"
_LEAST_HOURS = 1 / 60
"""Below a minute there is no clock: rows are numbered."""


def paragraph(
    *,
    model: str,
    scores: Mapping[str, Mapping[str, Interval]],
    best: str | None,
    lead: Interval | None,
    shares: Sequence[float],
    transactions: Sequence[int],
    horizon: int,
    items: int,
    summary: Summary | None,
    held: Summary | None,
    trading: Trading,
) -> str:
    """Return the verdict in up to three paragraphs: forecasts, money, and what is not known.

    Args:
        model: name of the model.
        scores: of the model and its rivals.
        best: the rival with the best macro-F1; None without rivals.
        lead: of the model over it.
        shares: of up, stationary and down among the labels.
        transactions: counts PT, TT, CT and more of the model.
        horizon: events that labels look ahead.
        items: number of forecasts.
        summary: of the model's backtest; None where prices cannot be traded.
        held: of buying and holding.
        trading: how it was traded.
    """
    own = scores[model]
    hours = 0.0 if summary is None else summary.hours
    over = f" over {_hours(hours)}" if hours >= _LEAST_HOURS else ""
    says = [
        f"{model} forecast the move {horizon} events ahead {_integer(items)} times{over}: macro-F1 "
        f"{_with_bounds(own['macro_f1'])}, MCC {own['mcc'].value:.3f}. Of the moves "
        f"{shares[0]:.1%} were up, {shares[1]:.1%} stationary and {shares[2]:.1%} down."
    ]
    if best is not None and lead is not None:
        says.append(_comparison(best, scores[best], lead))
    possible, made, correct = transactions[:3]
    right = f", {_integer(correct)} of them right at both ends" if made else ""
    says.append(
        f"The labels hold {_integer(possible)} complete transactions; it makes "
        f"{_integer(made) if made else 'none'}{right} (p_T {own['p_t'].value:.3f})."
    )
    if summary is None:
        says.append(
            "The prices are normalised, so nothing can be said about money: score it on prices in "
            "their own units before trading it."
        )
        return " ".join(says)
    first, says = " ".join(says), [_money(own["net_pnl"], summary, trading)]
    if held is not None and summary.trades:
        says.append(f"Buying once and holding made {_signed(held.net_pnl)} over the same time.")
    if np.isfinite(summary.sharpe_hour) and not summary.warning:
        says.append(
            f"Its mean result of an hour is {summary.sharpe_hour:.2f} standard deviations of one."
        )
    if "ece" in own and own["ece"].value > 0.05:
        says.append(
            f"Its probabilities are off by {100 * own['ece'].value:.0f} percentage points on "
            "average, so do not read a threshold on them as a chance of being right."
        )
    second, says = " ".join(says), []
    if summary.hours < SHORT_HOURS:
        says.append(
            f"{_hours(hours) if over else 'So short a stretch'} of one market cannot show how it "
            "does on other days; the interval is about stretches like this one."
        )
    says.append(
        "The test assumes fills at the quotes shown and no reaction of the market to the orders."
    )
    return "\n".join([first, second, " ".join(says)])


def _comparison(best: str, scores: Mapping[str, Interval], lead: Interval) -> str:
    start = f"The best of what it is compared with, {best}, has {scores['macro_f1'].value:.3f}; "
    if lead.ci_low is None or lead.ci_high is None:
        return start + f"the difference is {lead.value:+.3f}, from too few forecasts to be sure of."
    bounds = f"{lead.ci_low:+.3f} to {lead.ci_high:+.3f}"
    if lead.ci_low > 0:
        return start + f"the model is better by {lead.value:.3f} ({bounds})."
    if lead.ci_high < 0:
        return start + f"the model is worse by {-lead.value:.3f} ({bounds})."
    return start + f"the difference of {lead.value:+.3f} ({bounds}) may be chance."


def _money(net: Interval, summary: Summary, trading: Trading) -> str:
    if not summary.trades:
        return "It never gave a signal that could be traded, so there is no result."
    fee, paid = [], f"pay {_number(summary.spread_paid)} for crossing the spread"
    if trading.fee_bps:
        fee.append(f"{trading.fee_bps:g} basis points")
    if trading.fee_per_share:
        fee.append(f"{trading.fee_per_share:g} per unit")
    if fee:
        paid += f" and {_number(summary.fees)} in fees"
    trades = f"its {_integer(summary.trades)} trades" if summary.trades > 1 else "its one trade"
    late = "event" if trading.latency == 1 else "events"
    how = (
        f"Traded at the touch {trading.latency} {late} later, {trading.size:g} a time with "
        f"{' and '.join(fee) if fee else 'no'} fees, {trades} came to "
        f"{_signed(summary.gross_pnl)} at mid prices, had to {paid}, and left "
        f"{_signed(summary.net_pnl)}{_bounds(net)}."
    )
    rates = f"{_rate(summary.break_even_bps)} a side at mid prices against costs of " + _rate(
        summary.cost_bps
    )
    if summary.gross_pnl <= 0:
        return how + " It lost even before costs: traded like this, its signals are of no use."
    if net.ci_high is not None and net.ci_high < 0:
        return how + f" It does not pay its costs: it earned {rates}."
    if net.ci_low is not None and net.ci_low > 0:
        return how + f" It paid its costs here: it earned {rates}."
    word = "more" if summary.net_pnl > 0 else "less"
    return how + (
        f" Whether it pays its costs is not settled: it earned {rates}, {word} than them, but the "
        "interval includes zero."
        if net.ci_low is not None
        else f" It earned {rates}; the time is too short for an interval."
    )


def _with_bounds(item: Interval) -> str:
    if item.ci_low is None or item.ci_high is None:
        return f"{item.value:.3f}"
    return f"{item.value:.3f} ({_PERCENT} interval {item.ci_low:.3f} to {item.ci_high:.3f})"


def _bounds(item: Interval) -> str:
    if item.ci_low is None or item.ci_high is None:
        return ""
    return f" ({_PERCENT} interval {_signed(item.ci_low)} to {_signed(item.ci_high)})"


def _rate(value: float) -> str:
    return f"{value:.2f} basis points"


def _number(value: float) -> str:
    return f"{value:,.2f}" if value == 0 or abs(value) >= 0.095 else f"{value:.2g}"


def _signed(value: float) -> str:
    return f"{value:+,.2f}" if value == 0 or abs(value) >= 0.095 else f"{value:+.2g}"


def _integer(value: int) -> str:
    return f"{value:,}"


def _hours(hours: float) -> str:
    if hours < 1:
        return f"{60 * hours:.0f} minutes"
    return f"{hours:.1f} hours"

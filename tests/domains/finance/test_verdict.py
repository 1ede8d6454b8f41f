"""Verdicts say what the numbers say, and their tables hold the same numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from domains.finance.backtest import Trading
from domains.finance.market import Market
from domains.finance.rules import drift_rule, majority
from domains.finance.verdict import BUY_AND_HOLD, Part, Verdict, verdict, verdict_figures
from shared_runtime.charts import embed, png
from tests.domains.finance.markets import made_up_market

N, HORIZON = 3000, 20


def part_of(market: Market, **changes: object) -> Part:
    ends = np.arange(10, N - HORIZON)
    move = market.mid[ends + HORIZON] / market.mid[ends] - 1
    alpha = np.abs(move).mean() / 2
    label = np.where(move > alpha, 0, np.where(move < -alpha, 2, 1)).astype(np.int8)
    part = Part(market=market, ends=ends, label=label, horizon=HORIZON)
    return replace(part, **changes)  # type: ignore[arg-type]


def forecasts(part: Part, skill: float) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    right = rng.random(len(part.label)) < skill
    said = np.where(right, part.label, rng.integers(0, 3, len(part.label)))
    return {
        "TLOB": 0.7 * np.eye(3)[said] + 0.1,
        "majority": majority(part.label, len(said)),
        "drift rule": drift_rule(rng.normal(size=len(said)), 0.5),
    }


@pytest.fixture(scope="module")
def found() -> tuple[Verdict, dict[str, np.ndarray], Part]:
    part = part_of(made_up_market(N, series=2), names=("ABC 1", "ABC 2"))
    said = forecasts(part, 0.5)
    return verdict(said, part, trading=Trading(fee_bps=0.1), seed=0, resamples=200), said, part


def test_the_long_table_holds_every_number(
    found: tuple[Verdict, dict[str, np.ndarray], Part],
) -> None:
    result, said, part = found
    table = result.long
    assert list(table) == ["section", "name", "model", "value", "ci_low", "ci_high"]
    assert not table.duplicated(["section", "name", "model"]).any()
    assert list(result.metrics)[:4] == ["macro_f1", "mcc", "p_t", "net_pnl"]
    own = table[(table["model"] == "TLOB") & table["section"].isin(["score", "trading"])]
    values = dict(zip(own["name"], own["value"], strict=True))
    assert set(values) - set(result.metrics) == {"hold_events", "hours", "turnover"}
    assert all(values[name] == item.value for name, item in result.metrics.items())
    assert result.metrics["net_pnl"].ci_low is not None
    assert "ece" in result.metrics and "ece" not in result.baselines["majority"]
    assert set(result.baselines) == {"majority", "drift rule", BUY_AND_HOLD}
    assert all(np.isfinite(v) for row in result.baselines.values() for v in row.values())
    assert len(said) == 3 and len(part.label) == 2970


def test_the_accounts_of_the_tables_balance(
    found: tuple[Verdict, dict[str, np.ndarray], Part],
) -> None:
    result, _, _ = found
    costs = result.tables["Trades and costs"]
    left = costs["gross_pnl"] - costs["spread_paid"] - costs["fees"]
    np.testing.assert_allclose(costs["net_pnl"], left)
    ledger = result.ledgers["TLOB"]
    assert ledger.equity[-1] == pytest.approx(costs["net_pnl"][0])
    assert result.metrics["net_pnl"].value == pytest.approx(costs["net_pnl"][0])


def test_every_figure_is_drawn(found: tuple[Verdict, dict[str, np.ndarray], Part]) -> None:
    result, said, part = found
    pictures = verdict_figures(result, said, part, seed=0)
    assert len(pictures) == 7
    for picture in pictures:
        assert png(picture.figure).startswith(b"\x89PNG")
        assert "nan" not in embed(picture.figure)


@pytest.mark.parametrize(
    ("skill", "trading", "sentence"),
    [
        (0.0, Trading(fee_bps=1), "its costs"),
        (1.0, Trading(), "It paid its costs here"),
        (1.0, Trading(fee_bps=50), "It does not pay its costs"),
        (0.3, Trading(threshold=0.95), "It never gave a signal that could be traded"),
    ],
)
def test_the_words_follow_the_numbers(skill: float, trading: Trading, sentence: str) -> None:
    part = part_of(made_up_market(N))
    result = verdict(forecasts(part, skill), part, trading=trading, seed=0, resamples=200)
    assert sentence in result.text or (skill == 0 and "lost even before costs" in result.text)
    assert "nan" not in result.text and "None" not in result.text
    assert f"{result.metrics['macro_f1'].value:.3f}" in result.text
    if skill == 1:
        assert "the model is better by" in result.text


def test_a_rule_that_is_better_is_named() -> None:
    part = part_of(made_up_market(N))
    said = forecasts(part, 0.2) | {"foresight": np.eye(3)[part.label]}
    text = verdict(said, part, seed=0, resamples=200).text
    assert "foresight, has 1.000; the model is worse by" in text


def test_normalised_prices_are_not_traded() -> None:
    part = part_of(made_up_market(N), money=False)
    said = forecasts(part, 0.5)
    result = verdict(said, part, seed=0, resamples=50)
    assert not result.ledgers and "net_pnl" not in result.metrics
    assert "nothing can be said about money" in result.text
    assert len(verdict_figures(result, said, part, seed=0)) == 3


def test_a_model_alone_and_a_short_part_have_a_verdict() -> None:
    market = made_up_market(N)
    part = part_of(market)
    short = replace(part, ends=part.ends[:30], label=part.label[:30])
    said = {"TLOB": forecasts(part, 0.5)["TLOB"][:30]}
    result = verdict(said, short, seed=0)
    assert result.metrics["macro_f1"].ci_low is None
    assert "compared with" not in result.text
    assert verdict_figures(result, said, short, seed=0)
    with pytest.raises(ValueError, match="expected the forecasts of a model"):
        verdict({}, part, seed=0)

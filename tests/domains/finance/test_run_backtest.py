"""The verb `backtest`: its files agree with each other, to the cent, and with the quotes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from shared_runtime.verbs.train import RunResult
from tests.domains.finance.small_runs import heed
from tests.shared_runtime.test_report import browse, complaints

FEE, LATENCY = 0.5, 3
COSTS = ["--fee", str(FEE), "--latency", str(LATENCY)]
WRITTEN = {"backtest.html", "trades.csv", "equity.csv", "verdict.csv", "metrics.json"}


@pytest.fixture(scope="module")
def traded(lobster_run: RunResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("traded") / "out"
    printed = heed("backtest", "--run", lobster_run.folder, *COSTS, "--out", out)
    assert {path.name for path in out.iterdir() if path.suffix != ".png"} == WRITTEN
    assert len(list(out.glob("*.png"))) >= 6
    assert "no investment advice" in printed and str(out / "trades.csv") in printed
    return out


def test_trades_add_up_to_the_verdict(traded: Path) -> None:
    trades = pd.read_csv(traded / "trades.csv")
    assert len(trades) > 2
    metrics = json.loads((traded / "metrics.json").read_text())
    values = {name: item["value"] for name, item in metrics["metrics"].items()}
    assert values["trades"] == len(trades)
    for score, column in (
        ("gross_pnl", "gross"),
        ("spread_paid", "spread"),
        ("fees", "fee"),
        ("net_pnl", "net"),
    ):
        assert values[score] == pytest.approx(trades[column].sum(), abs=1e-9)
    net = trades["gross"] - trades["spread"] - trades["fee"]
    assert np.allclose(net, trades["net"], atol=1e-9)
    assert metrics["trading"]["fee_bps"] == FEE and metrics["trading"]["latency"] == LATENCY


def test_fills_are_at_the_quotes_and_pay_the_fee(traded: Path) -> None:
    trades, book = pd.read_csv(traded / "trades.csv"), pd.read_csv(traded / "equity.csv")
    whole = trades[(trades["size"] == 1) & ~trades["at_end"]]
    assert len(whole)
    opened, closed = book.iloc[whole["open_row"]], book.iloc[whole["close_row"]]
    long = whole["side"].to_numpy() > 0
    assert np.allclose(whole["open_price"], np.where(long, opened["ask"], opened["bid"]))
    assert np.allclose(whole["close_price"], np.where(long, closed["bid"], closed["ask"]))
    paid = (whole["open_price"] + whole["close_price"]) * FEE / 1e4
    assert np.allclose(whole["fee"], paid, atol=1e-9)
    moved = whole["side"] * (whole["close_price"] - whole["open_price"])
    assert np.allclose(moved - paid, whole["net"], atol=1e-9)


def test_equity_ends_flat_at_the_net_result(traded: Path) -> None:
    trades, equity = pd.read_csv(traded / "trades.csv"), pd.read_csv(traded / "equity.csv")
    assert equity["position"].iloc[-1] == 0 and equity["position"].abs().max() <= 1
    assert equity["equity"].iloc[-1] == pytest.approx(trades["net"].sum(), abs=1e-9)
    assert (equity["liquidation"] <= equity["equity"] + 1e-9).all()
    assert (trades["open_row"].iloc[1:].to_numpy() >= trades["close_row"].iloc[:-1]).all()


def test_a_forecast_is_not_traded_before_it_arrives(traded: Path, lobster_run: RunResult) -> None:
    forecasts = pd.read_csv(lobster_run.folder / "predictions.csv")
    trades = pd.read_csv(traded / "trades.csv")
    equity = pd.read_csv(traded / "equity.csv")
    first = forecasts.index[forecasts["predicted"] != "stationary"][0]
    row = len(equity) - len(forecasts) - 10 + first
    assert trades["open_row"].iloc[0] >= row + LATENCY


def test_money_does_not_change_forecasts(traded: Path, lobster_run: RunResult) -> None:
    metrics = json.loads((traded / "metrics.json").read_text())
    for name in ("macro_f1", "mcc", "log_loss"):
        assert metrics["metrics"][name] == lobster_run.metrics["metrics"][name]
    assert metrics["baselines"].keys() == lobster_run.metrics["baselines"].keys()


def test_an_unreached_threshold_trades_nothing(lobster_run: RunResult, tmp_path: Path) -> None:
    (tmp_path / "backtest.html").write_text("an earlier backtest, which may be replaced")
    unreached = ("--set", "data.signal=0.999", "--out", tmp_path)
    printed = heed("backtest", "--run", lobster_run.folder, *unreached)
    assert len(pd.read_csv(tmp_path / "trades.csv")) == 0
    assert pd.read_csv(tmp_path / "equity.csv")["equity"].eq(0).all()
    assert "It never gave a signal" in printed


def test_refused(lobster_run: RunResult) -> None:
    run = lobster_run.folder
    printed = heed("backtest", "--run", run, "--out", run, code=2)
    assert "exists and is not an empty folder" in printed
    assert "data.fee: expected at least 0" in heed("backtest", "--run", run, "--fee", -1, code=2)
    assert "the model was trained with" in heed(
        "backtest", "--run", run, "--set", "data.horizon=5", code=3
    )


@pytest.mark.browser
def test_pages_render(traded: Path, lobster_run: RunResult, tmp_path: Path) -> None:
    for page in (traded / "backtest.html", lobster_run.folder / "report.html"):
        ended = browse(page.resolve(), tmp_path, "--dump-dom")
        assert complaints(ended.stderr) == []
        assert "<svg" in ended.stdout

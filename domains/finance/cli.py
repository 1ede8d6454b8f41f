"""The command `heed finance`, also `heed-finance`."""

from __future__ import annotations

from shared_runtime.cli import domain_app, run
from shared_runtime.domain import DomainOption
from shared_runtime.flags import Verb

_VERBS = ("train", "check", "benchmark")
_COSTS = ("train", "evaluate", "backtest")

app = domain_app(
    "finance",
    "domains.finance.domain",
    summary="Forecast order books, and say what a forecast is worth after costs.",
    options=(
        DomainOption("--lookback", "data.lookback", int, "Rows a model sees (32).", _VERBS),
        DomainOption("--horizon", "data.horizon", int, "Rows ahead to forecast (10).", _VERBS),
        DomainOption("--label", "data.label", str, "tlob, fi2010, deeplob, return, given.", _VERBS),
        DomainOption("--fee", "data.fee", float, "Basis points per trade and side (0).", _COSTS),
        DomainOption(
            "--latency", "data.latency", int, "Events from forecast to trade (1).", _COSTS
        ),
    ),
    verbs=(
        Verb(
            "backtest",
            "Trade a trained model's forecasts: trades, equity, costs and a report.",
            ("run", "data", "split", "out", "device", "set", "quiet", "debug"),
            takes_configuration=True,
            home="domains.finance.verbs",
        ),
    ),
)


def main() -> None:
    """Run `heed-finance`."""
    run(app)

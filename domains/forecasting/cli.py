"""The command `heed forecasting`, also `heed-forecasting`."""

from __future__ import annotations

from shared_runtime.cli import domain_app, run
from shared_runtime.domain import DomainOption

_VERBS = ("train", "check", "benchmark")

app = domain_app(
    "forecasting",
    "domains.forecasting.domain",
    summary="Forecast and classify time series.",
    options=(
        DomainOption("--lookback", "data.lookback", int, "Steps a model sees (96).", _VERBS),
        DomainOption("--horizon", "data.horizon", int, "Steps to forecast (96).", _VERBS),
        DomainOption(
            "--drop-last-compat",
            "data.drop_last_compat",
            int,
            "Leave out the last partial batch of this size when scoring, as published code does.",
            ("train", "evaluate"),
        ),
        DomainOption(
            "--cutoffs",
            "data.cutoffs",
            int,
            "Rolling cut-offs to score, for data.split=tail.",
            ("train", "check", "evaluate"),
        ),
    ),
)


def main() -> None:
    """Run `heed-forecasting`."""
    run(app)

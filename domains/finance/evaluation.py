"""Score a trained model beside everything it should beat, and say what it is worth to a trader."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from domains.finance.backtest import Trading
from domains.finance.data.windows import Windows
from domains.finance.inference import probabilities
from domains.finance.market import Market
from domains.finance.prediction import forecast_table
from domains.finance.preparation import NORMALISED
from domains.finance.rivals import RULES, rival_forecasts
from domains.finance.verdict import SHOWN, Part, Verdict, verdict, verdict_figures
from shared_runtime.domain import Evaluation, LoadedModel, Prepared
from shared_runtime.errors import DataError

UNSURE = ("log_loss", "brier", "ece")
"""Scores of probabilities, which rules do not give."""


def evaluate(
    loaded: LoadedModel,
    prepared: Prepared,
    split: str,
    *,
    batch_size: int,
    device: torch.device,
    seed: int,
) -> Evaluation:
    """Score every window of `split`, trade the forecasts and compare.

    Raises:
        DataError: the part has no window.
    """
    windows = _part(prepared, split)
    probability = probabilities(loaded.model, windows, batch_size=batch_size, device=device)
    forecasts = {loaded.spec.name: probability, **rival_forecasts(prepared, split)}
    part = scored_part(prepared, split)
    found = verdict(forecasts, part, trading=trading(prepared), seed=seed)
    return Evaluation(
        metrics=found.metrics,
        n_scored=len(windows),
        predictions=forecast_table(windows, probability),
        figures=verdict_figures(found, forecasts, part, seed=seed),
        tables=found.tables,
        text=found.text,
        shown=SHOWN,
        files={"verdict.csv": found.long},
    )


def baselines(prepared: Prepared, split: str) -> dict[str, dict[str, float]]:
    """Score and trade the rules and fitted baselines on the same windows."""
    forecasts = rival_forecasts(prepared, split)
    part = scored_part(prepared, split)
    found = verdict(forecasts, part, trading=trading(prepared), seed=0, resamples=0)
    return without_unsure(found, next(iter(forecasts)))


def without_unsure(found: Verdict, first: str) -> dict[str, dict[str, float]]:
    """Return the scores of every forecast of a verdict, rules without those of probabilities."""
    scores = {first: {name: item.value for name, item in found.metrics.items()}, **found.baselines}
    return {
        name: {k: v for k, v in values.items() if name not in RULES or k not in UNSURE}
        for name, values in scores.items()
    }


def scored_part(prepared: Prepared, split: str) -> Part:
    """Return what forecasts of a part are scored against.

    Raises:
        DataError: the part has no window.
    """
    windows, data = _part(prepared, split), _data(prepared)
    if len(windows) == 0:
        raise DataError(f"the {split} part has no labelled window; use more data")
    return Part(
        market=Market.of(windows),
        ends=windows.ends,
        label=windows.label.astype(np.int64),
        horizon=data["horizon"],
        smoothing=data["smoothing"],
        train=Market.of(_part(prepared, "train")),
        names=tuple(f"{o.instrument} {o.day}".strip() for o in windows.origins),
        money=prepared.summary.get("prices") != NORMALISED,
    )


def trading(prepared: Prepared) -> Trading:
    """Return how forecasts are traded, from the `data:` section."""
    data = _data(prepared)
    return Trading(
        threshold=data["signal"] or None,
        latency=data["latency"],
        size=data["order_size"],
        max_position=data["max_position"],
        fee_bps=data["fee"],
        min_hold=data["min_hold"],
        stationary=data["on_stationary"],
    )


def _data(prepared: Prepared) -> Mapping[str, Any]:
    return prepared.preprocessing["data"]


def _part(prepared: Prepared, split: str) -> Windows:
    items = getattr(prepared, split)
    assert isinstance(items, Windows)
    return items

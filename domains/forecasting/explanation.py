"""What a model attended to: lag importance and attention matrices, as figures and tables."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from domains.forecasting.data.windows import WindowSet
from domains.forecasting.figures import attention_figure, lag_figure
from domains.forecasting.inputs import forecaster_inputs
from domains.forecasting.sensitivity import lag_sensitivity
from shared_attention import explain
from shared_runtime.domain import Figure, LoadedModel, Prepared

_WINDOWS = 16
_MATRICES = 4


def explain_run(
    loaded: LoadedModel, prepared: Prepared, *, device: torch.device
) -> tuple[list[Figure], Mapping[str, pd.DataFrame]]:
    """Return figures and tables for test windows spread over the part.

    Forecasters get lag importance; every model gets the effective attention matrix of its first
    layers with the entropy and mean distance of each head.
    """
    items = prepared.test
    chosen = np.linspace(0, len(items) - 1, min(_WINDOWS, len(items))).astype(np.int64)
    batch = {name: value.to(device) for name, value in items.batch(chosen).items()}
    figures: list[Figure] = []
    tables: dict[str, pd.DataFrame] = {}
    channels: list[str] = []
    if isinstance(items, WindowSet):
        channels = list(items.store.panel.channels)
        effect = lag_sensitivity(loaded.model, batch).cpu().numpy()
        figures.append(lag_figure(effect, channels))
        lags = pd.DataFrame(effect, columns=channels)
        lags.insert(0, "lag", np.arange(len(effect), 0, -1))
        tables["lag importance"] = lags
    inputs = forecaster_inputs(batch) if isinstance(items, WindowSet) else _classifier(batch)
    maps = attention_maps(loaded.model, inputs)
    for name, weights in list(maps.items())[:_MATRICES]:
        mean = weights.mean(dim=(0, 1)).cpu().numpy()
        queries, keys = (_token_names(size, channels) for size in mean.shape)
        figures.append(attention_figure(name, mean, queries, keys))
    if maps:
        tables["attention heads"] = pd.DataFrame(
            {"layer": name, "head": head, "entropy": float(e), "distance": float(d)}
            for name, row in explain.head_statistics(maps).items()
            for head, (e, d) in enumerate(zip(row["entropy"], row["distance"], strict=True))
        )
    return figures, tables


def attention_maps(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the effective attention matrix `[B, H, L, S]` of each multi-head layer, by name."""
    model.eval()
    with torch.no_grad(), explain.capture(model) as maps:
        model(**inputs)
    return dict(maps)


def _classifier(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"x": batch["x"], "valid": batch["valid"]}


def _token_names(size: int, channels: list[str]) -> list[str]:
    """Variables first where tokens are variables, otherwise the place of the token."""
    if channels and len(channels) <= size <= len(channels) + 8:
        return channels + [f"calendar {n + 1}" for n in range(size - len(channels))]
    return [str(n) for n in range(size)]

"""From the last features of a model to `[B, H, C, outputs]`."""

from __future__ import annotations

from torch import Tensor


def as_forecast(features: Tensor, channels: int, outputs: int) -> Tensor:
    """View `[B, H, channels * outputs]` as a forecast `[B, H, channels, outputs]`."""
    return features.unflatten(-1, (channels, outputs))


def ordered(forecast: Tensor) -> Tensor:
    """Sort the last axis, so that quantile forecasts never cross.

    Sorting cannot raise the quantile loss. Source: Chernozhukov, Fernández-Val and Galichon,
    "Quantile and Probability Curves Without Crossing", 2010.
    """
    return forecast if forecast.shape[-1] == 1 else forecast.sort(dim=-1).values

"""Variables as tokens: the inverted Transformer (Liu et al., ICLR 2024, arXiv 2310.06625)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from domains.forecasting.models.parts.attention_choice import choose_attention
from domains.forecasting.models.parts.covariates import refuse_covariates
from domains.forecasting.models.parts.heads import ordered
from domains.forecasting.models.parts.normalisation import (
    Normalisation,
    keep_valid,
    normalise_window,
)
from shared_attention.layers import EncoderLayer
from shared_attention.linear import Linear


class InvertedTransformer(nn.Module):
    """Each variable's whole window is one token; attention relates variables to each other.

    The calendar's series are tokens as well, and are read but not forecast.

    Args:
        lookback: length L of the window.
        horizon: steps H to forecast.
        channels: series C.
        time_features: calendar covariates F.
        outputs: quantiles, or 1 for a point forecast.
        attention: mechanism; None is `softmax`.
        attention_options: its options.
        d_model: width.
        num_heads: heads.
        d_ff: width of the feed-forward layers.
        layers: encoder layers.
        dropout: probability.
        normalise: what is taken off each window before and put back after.
    """

    def __init__(
        self,
        *,
        lookback: int,
        horizon: int,
        channels: int,
        time_features: int,
        outputs: int = 1,
        attention: str | None = None,
        attention_options: Mapping[str, Any] | None = None,
        d_model: int = 128,
        num_heads: int = 8,
        d_ff: int = 256,
        layers: int = 2,
        dropout: float = 0.1,
        normalise: Normalisation = "instance",
    ) -> None:
        super().__init__()
        choice = choose_attention(
            "InvertedTransformer", attention, attention_options, default="softmax"
        )
        self.channels, self.horizon, self.outputs = channels, horizon, outputs
        self.normalise: Normalisation = normalise
        self.embed = Linear(lookback, d_model)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            EncoderLayer(choice.build(d_model, num_heads), d_model, d_ff, dropout=dropout)
            for _ in range(layers)
        )
        self.project = Linear(d_model, horizon * outputs)

    def forward(
        self,
        past: Tensor,
        past_time: Tensor,
        future_time: Tensor,
        *,
        past_covariates: Tensor | None = None,
        future_covariates: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> Tensor:
        """Forecast `[B, H, C, outputs]` from `past` `[B, L, C]`; invalid steps count as the mean.

        Args:
            past: scaled window.
            past_time: `[B, L, F]`.
            future_time: `[B, H, F]`; not read: the horizon has no tokens of its own.
            past_covariates: refused.
            future_covariates: refused.
            valid: bool `[B, L]`, False where padded.
        """
        refuse_covariates("InvertedTransformer", past_covariates, future_covariates)
        window, scale = normalise_window(past, valid, self.normalise)
        series = torch.cat([window, keep_valid(past_time, valid)], dim=-1)
        tokens = self.dropout(self.embed(series.transpose(1, 2)))
        for layer in self.layers:
            tokens = layer(tokens)
        forecast = self.project(tokens[:, : self.channels])
        forecast = forecast.unflatten(-1, (self.horizon, self.outputs)).transpose(1, 2)
        return ordered(scale.restore(forecast))

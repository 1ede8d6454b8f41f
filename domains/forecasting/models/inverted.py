"""Variables as tokens: the inverted Transformer (Liu et al., ICLR 2024, arXiv 2310.06625)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from domains.forecasting.models.parts.covariates import refuse_covariates
from domains.forecasting.models.parts.heads import ordered
from domains.forecasting.models.parts.normalisation import (
    Normalisation,
    keep_valid,
    normalise_window,
)
from domains.forecasting.models.parts.season import LearnedSeason
from shared_attention.choice import choose_attention
from shared_attention.dropout import Dropout
from shared_attention.layers import EncoderLayer
from shared_attention.linear import Linear


class InvertedTransformer(nn.Module):
    """Each variable's whole window is one token; attention relates variables to each other.

    The paper's model is `linear_path=False, remove_season=False, calendar_tokens=True`. The
    default adds a linear map from window to horizon, shared by the variables, to which the
    attention path, zero at the start, is a correction; and takes a learned season off the
    window. `docs/results/forecasting.md` measures what each buys.

    Args:
        lookback: length L of the window.
        horizon: steps H to forecast.
        channels: series C.
        time_features: calendar covariates F.
        season: levels of the first calendar covariate.
        outputs: quantiles, or 1 for a point forecast.
        attention: mechanism; None is `softmax`.
        attention_options: its options.
        d_model: width.
        num_heads: heads.
        d_ff: width of the feed-forward layers.
        layers: encoder layers.
        dropout: probability.
        normalise: what is taken off each window before and put back after.
        linear_path: add the linear map.
        remove_season: take the learned season off the window and add it to the forecast.
        calendar_tokens: the calendar's series are tokens as well, read but not forecast.
    """

    def __init__(
        self,
        *,
        lookback: int,
        horizon: int,
        channels: int,
        time_features: int,
        season: int,
        outputs: int = 1,
        attention: str | None = None,
        attention_options: Mapping[str, Any] | None = None,
        d_model: int = 16,
        num_heads: int = 4,
        d_ff: int = 32,
        layers: int = 1,
        dropout: float = 0.5,
        normalise: Normalisation = "instance",
        linear_path: bool = True,
        remove_season: bool = True,
        calendar_tokens: bool = False,
    ) -> None:
        super().__init__()
        choice = choose_attention(
            "InvertedTransformer", attention, attention_options, default="softmax"
        )
        choice.require_unordered()
        self.channels, self.horizon, self.outputs = channels, horizon, outputs
        self.normalise: Normalisation = normalise
        self.calendar_tokens = calendar_tokens
        self.season = LearnedSeason(season, channels) if remove_season else None
        self.direct = Linear(lookback, horizon * outputs) if linear_path else None
        self.embed = Linear(lookback, d_model)
        self.dropout = Dropout(dropout)
        self.layers = nn.ModuleList(
            EncoderLayer(choice.build(d_model, num_heads), d_model, d_ff, dropout=dropout)
            for _ in range(layers)
        )
        self.project = Linear(d_model, horizon * outputs)
        if linear_path:
            nn.init.zeros_(self.project.weight)
            nn.init.zeros_(self.project.bias)

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
            future_time: `[B, H, F]`; read for the season only.
            past_covariates: refused.
            future_covariates: refused.
            valid: bool `[B, L]`, False where padded.
        """
        refuse_covariates("InvertedTransformer", past_covariates, future_covariates)
        if self.season is not None:
            past = past - self.season(past_time)
        window, scale = normalise_window(past, valid, self.normalise)
        series = window.transpose(1, 2)
        if self.calendar_tokens:
            calendar = keep_valid(past_time, valid).transpose(1, 2)
            series = torch.cat([series, calendar], dim=1)
        tokens = self.dropout(self.embed(series))
        for layer in self.layers:
            tokens = layer(tokens)
        forecast = self.project(tokens[:, : self.channels])
        if self.direct is not None:
            forecast = forecast + self.direct(window.transpose(1, 2))
        forecast = forecast.unflatten(-1, (self.horizon, self.outputs)).transpose(1, 2)
        forecast = ordered(scale.restore(forecast))
        if self.season is None:
            return forecast
        return forecast + self.season(future_time).unsqueeze(-1)

"""MHAC: multi-head attention CNN (arXiv 2112.00328)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from domains.forecasting.models.parts.heads import ordered
from domains.forecasting.models.parts.normalisation import (
    Normalisation,
    keep_valid,
    normalise_window,
)
from domains.forecasting.models.parts.variable_convolution import VariableConvolution
from shared_attention.choice import choose_attention
from shared_attention.dropout import Dropout
from shared_attention.layers import EncoderLayer
from shared_attention.linear import Linear


class MHAC(nn.Module):
    """A 1-D CNN reads each variable over time; attention relates the variables to each other.

    Variables are the series to forecast, the calendar and the covariates of the past, and the
    calendar and the covariates known for the horizon. Only the abstract of the paper is public:
    sizes are ours.

    Args:
        lookback: length L of the window.
        horizon: steps H to forecast.
        channels: series C.
        time_features: calendar covariates F.
        outputs: quantiles, or 1 for a point forecast.
        past_covariates: external factors K known for the past.
        future_covariates: external factors K' known for the horizon.
        attention: mechanism across variables; None is `softmax`.
        attention_options: its options.
        d_model: width.
        num_heads: heads.
        filters: channels of the convolutions of each variable.
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
        past_covariates: int = 0,
        future_covariates: int = 0,
        attention: str | None = None,
        attention_options: Mapping[str, Any] | None = None,
        d_model: int = 64,
        num_heads: int = 4,
        filters: int = 8,
        dropout: float = 0.1,
        normalise: Normalisation = "last",
    ) -> None:
        super().__init__()
        choice = choose_attention("MHAC", attention, attention_options, default="softmax")
        choice.require_unordered()
        self.channels, self.horizon, self.outputs = channels, horizon, outputs
        self.covariates = {"past": past_covariates, "future": future_covariates}
        self.normalise: Normalisation = normalise
        past_variables = channels + time_features + past_covariates
        future_variables = time_features + future_covariates
        self.past = VariableConvolution(past_variables, lookback, filters, d_model)
        self.future = (
            VariableConvolution(future_variables, horizon, filters, d_model)
            if future_variables
            else None
        )
        self.dropout = Dropout(dropout)
        self.attend = EncoderLayer(
            choice.build(d_model, num_heads), d_model, 4 * d_model, dropout=dropout
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
        """Forecast `[B, H, C, outputs]` from `past` `[B, L, C]`.

        Args:
            past: scaled window.
            past_time: `[B, L, F]`.
            future_time: `[B, H, F]`.
            past_covariates: `[B, L, K]`.
            future_covariates: `[B, H, K']`.
            valid: bool `[B, L]`, False where padded; such steps count as zero for every variable.

        Raises:
            ValueError: The covariates are not those the model was built for.
        """
        window, scale = normalise_window(past, valid, self.normalise)
        before = [window, past_time, *self._given("past", past_covariates)]
        tokens = self.past(keep_valid(torch.cat(before, dim=-1), valid))
        after = [future_time, *self._given("future", future_covariates)]
        if self.future is not None:
            tokens = torch.cat([tokens, self.future(torch.cat(after, dim=-1))], dim=1)
        related = self.attend(self.dropout(tokens))
        forecast = self.project(related[:, : self.channels])
        forecast = forecast.unflatten(-1, (self.horizon, self.outputs)).transpose(1, 2)
        return ordered(scale.restore(forecast))

    def _given(self, part: str, covariates: Tensor | None) -> list[Tensor]:
        expected = self.covariates[part]
        got = 0 if covariates is None else covariates.shape[-1]
        if got != expected:
            raise ValueError(
                f"MHAC.forward: {part}_covariates has {got} columns, expected {expected}; "
                f"build the model with {part}_covariates={got}"
            )
        return [] if covariates is None else [covariates]

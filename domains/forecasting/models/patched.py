"""Patches as tokens, one channel at a time: PatchTST (Nie et al., ICLR 2023, arXiv 2211.14730)."""

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
from domains.forecasting.models.parts.patching import patch_count, patches
from shared_attention.choice import choose_attention
from shared_attention.dropout import Dropout
from shared_attention.layers import EncoderLayer
from shared_attention.linear import Linear


class PatchedTransformer(nn.Module):
    """Every channel is a sequence of patches; all channels share the weights.

    Args:
        lookback: length L of the window.
        horizon: steps H to forecast.
        channels: series C.
        time_features: calendar covariates F; not read, as in the paper.
        outputs: quantiles, or 1 for a point forecast.
        attention: mechanism; None is `softmax`.
        attention_options: its options.
        d_model: width.
        num_heads: heads.
        d_ff: width of the feed-forward layers.
        layers: encoder layers.
        dropout: probability.
        patch: steps per patch.
        stride: steps from one patch to the next.
        normalise: what is taken off each window before and put back after.

    The encoder uses layer norm; the paper's batch norm couples the samples of a batch.

    Raises:
        ValueError: `patch` and `stride` do not fit the look-back.
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
        d_model: int = 64,
        num_heads: int = 8,
        d_ff: int = 128,
        layers: int = 2,
        dropout: float = 0.1,
        patch: int = 16,
        stride: int = 8,
        normalise: Normalisation = "instance",
    ) -> None:
        super().__init__()
        self.attention = choose_attention(
            "PatchedTransformer", attention, attention_options, default="softmax"
        )
        self.channels, self.horizon, self.outputs = channels, horizon, outputs
        self.patch, self.stride = patch, stride
        self.normalise: Normalisation = normalise
        count = patch_count(lookback, patch, stride)
        self.embed = Linear(patch, d_model)
        self.positions = nn.Parameter(torch.randn(count, d_model) * 0.02)
        self.dropout = Dropout(dropout)
        self.layers = nn.ModuleList(
            EncoderLayer(self.attention.build(d_model, num_heads), d_model, d_ff, dropout=dropout)
            for _ in range(layers)
        )
        self.project = Linear(count * d_model, horizon * outputs)

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
            past_time: `[B, L, F]`; not read.
            future_time: `[B, H, F]`; not read.
            past_covariates: refused.
            future_covariates: refused.
            valid: bool `[B, L]`, False where padded; patches without a valid step are masked.
        """
        refuse_covariates("PatchedTransformer", past_covariates, future_covariates)
        window, scale = normalise_window(past, valid, self.normalise)
        pieces = patches(window.transpose(1, 2), self.patch, self.stride).flatten(0, 1)
        seen = None
        if valid is not None:
            seen = patches(valid, self.patch, self.stride).any(dim=-1)
            seen = seen.repeat_interleave(self.channels, dim=0)
        mask = self.attention.padding(seen)
        tokens = self.dropout(self.embed(pieces) + self.positions)
        for layer in self.layers:
            tokens = layer(tokens, mask=mask)
        features = keep_valid(tokens, seen).flatten(1).unflatten(0, (-1, self.channels))
        forecast = self.project(self.dropout(features))
        forecast = forecast.unflatten(-1, (self.horizon, self.outputs)).transpose(1, 2)
        return ordered(scale.restore(forecast))

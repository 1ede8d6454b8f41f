"""Autoformer (Wu et al., NeurIPS 2021, arXiv 2106.13008)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from domains.forecasting.models.parts.circular import CircularConvolution
from domains.forecasting.models.parts.covariates import refuse_covariates
from domains.forecasting.models.parts.decomposition import CentredLayerNorm, decompose
from domains.forecasting.models.parts.heads import as_forecast, ordered
from domains.forecasting.models.parts.normalisation import carry_valid, valid_mean
from domains.forecasting.models.parts.start_tokens import (
    label_steps,
    tail_and_horizon,
    tail_validity,
)
from domains.forecasting.models.parts.token_embedding import TokenEmbedding
from shared_attention.choice import AttentionChoice, choose_attention
from shared_attention.dropout import Dropout, dropout
from shared_attention.linear import Linear
from shared_attention.masks import Mask


class Autoformer(nn.Module):
    """Decomposition Transformer: trend is accumulated beside the seasonal part, layer by layer.

    Args:
        lookback: length L of the window.
        horizon: steps H to forecast.
        channels: series C.
        time_features: calendar covariates F.
        outputs: quantiles, or 1 for a point forecast.
        attention: mechanism of every attention; None is the paper's `auto_correlation`.
        attention_options: its options; `factor` 3 as in the paper (later ports use 1).
        d_model: width.
        num_heads: heads.
        d_ff: width of the feed-forward layers.
        encoder_layers: layers of the encoder.
        decoder_layers: layers of the decoder.
        dropout: probability.
        average: odd width of the moving average.
        label: look-back steps at the start of the decoder; None is half the window.

    Differs from the published code in training: lags are chosen per sample, as at inference,
    where the published code takes those of the batch mean and so lets one sample's forecast
    depend on the others. The published form is an option of the mechanism.

    Raises:
        UnsupportedError: `attention` cannot be used across two series.
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
        d_model: int = 512,
        num_heads: int = 8,
        d_ff: int = 2048,
        encoder_layers: int = 2,
        decoder_layers: int = 1,
        dropout: float = 0.05,
        average: int = 25,
        label: int | None = None,
    ) -> None:
        super().__init__()
        self.attention = choose_attention(
            "Autoformer",
            attention,
            attention_options,
            default="auto_correlation",
            default_options={"factor": 3},
            needs=("cross",),
        )
        self.horizon = horizon
        self.channels = channels
        self.outputs = outputs
        self.average = average
        self.label = label_steps(label, lookback, default=lookback // 2)
        self.past_embedding = TokenEmbedding(channels, time_features, d_model)
        self.future_embedding = TokenEmbedding(channels, time_features, d_model)
        self.dropout = Dropout(dropout)
        self.encoder = nn.ModuleList(
            _EncoderLayer(self.attention, d_model, num_heads, d_ff, average, dropout)
            for _ in range(encoder_layers)
        )
        self.encoder_norm = CentredLayerNorm(d_model)
        self.decoder = nn.ModuleList(
            _DecoderLayer(self.attention, d_model, num_heads, d_ff, average, dropout, channels)
            for _ in range(decoder_layers)
        )
        self.decoder_norm = CentredLayerNorm(d_model)
        self.project = Linear(d_model, channels * outputs)

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
            past_covariates: refused.
            future_covariates: refused.
            valid: bool `[B, L]`, False where padded; refused by mechanisms without key padding,
                the paper's among them: its lags run over the whole window.
        """
        refuse_covariates("Autoformer", past_covariates, future_covariates)
        mask = self.attention.padding(valid)
        level = valid_mean(past, valid).expand(-1, self.horizon, -1)
        past = carry_valid(past, valid)
        seasonal, trend = decompose(past, self.average)
        trend = tail_and_horizon(trend, self.label, level)
        seasonal = tail_and_horizon(seasonal, self.label, past.new_zeros(level.shape))
        time = tail_and_horizon(past_time, self.label, future_time)
        inputs_valid = tail_validity(valid, self.label, self.horizon)
        inputs_mask = self.attention.padding(inputs_valid)

        memory = self.dropout(self.past_embedding(past, past_time, valid))
        for layer in self.encoder:
            memory = layer(memory, mask)
        memory = self.encoder_norm(memory)
        hidden = self.dropout(self.future_embedding(seasonal, time, inputs_valid))
        for layer in self.decoder:
            hidden, change = layer(hidden, memory, inputs_mask, mask)
            trend = trend + change
        hidden = self.decoder_norm(hidden)[:, -self.horizon :]
        seasonal_forecast = as_forecast(self.project(hidden), self.channels, self.outputs)
        return ordered(seasonal_forecast + trend[:, -self.horizon :].unsqueeze(-1))


class _FeedForward(nn.Module):
    def __init__(self, d_model: int, d_ff: int, dropout: float) -> None:
        super().__init__()
        self.widen = Linear(d_model, d_ff, bias=False)
        self.narrow = Linear(d_ff, d_model, bias=False)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.gelu(self.widen(x))
        if self.training:
            hidden = dropout(hidden, self.dropout.p, inplace=True)
        return self.dropout(self.narrow(hidden))


class _EncoderLayer(nn.Module):
    """Attention and feed-forward, the trend taken off after each (equation 3)."""

    def __init__(
        self,
        choice: AttentionChoice,
        d_model: int,
        num_heads: int,
        d_ff: int,
        average: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.attention = choice.build(d_model, num_heads)
        self.feed_forward = _FeedForward(d_model, d_ff, dropout)
        self.dropout = Dropout(dropout)
        self.average = average

    def forward(self, x: Tensor, mask: Mask | None) -> Tensor:
        x, _ = decompose(x + self.dropout(self.attention(x, mask=mask)), self.average)
        x, _ = decompose(x + self.feed_forward(x), self.average)
        return x


class _DecoderLayer(nn.Module):
    """Self-attention, cross-attention and feed-forward; their trends leave projected (eq. 4)."""

    def __init__(
        self,
        choice: AttentionChoice,
        d_model: int,
        num_heads: int,
        d_ff: int,
        average: int,
        dropout: float,
        channels: int,
    ) -> None:
        super().__init__()
        self.self_attention = choice.build(d_model, num_heads)
        self.cross_attention = choice.build(d_model, num_heads, across=True)
        self.feed_forward = _FeedForward(d_model, d_ff, dropout)
        self.trend = CircularConvolution(d_model, channels)
        self.dropout = Dropout(dropout)
        self.average = average

    def forward(
        self, x: Tensor, memory: Tensor, mask: Mask | None, memory_mask: Mask | None
    ) -> tuple[Tensor, Tensor]:
        attended = self.self_attention(x, mask=mask)
        x, first = decompose(x + self.dropout(attended), self.average)
        attended = self.cross_attention(x, memory, mask=memory_mask)
        x, second = decompose(x + self.dropout(attended), self.average)
        x, third = decompose(x + self.feed_forward(x), self.average)
        return x, self.trend(first + second + third)

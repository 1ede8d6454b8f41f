"""The Transformer with a generative decoder that Informer, Flowformer and others share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from domains.forecasting.models.parts.covariates import refuse_covariates
from domains.forecasting.models.parts.distilling import Distilling
from domains.forecasting.models.parts.heads import as_forecast, ordered
from domains.forecasting.models.parts.horizon_layer import HorizonDecoderLayer
from domains.forecasting.models.parts.normalisation import keep_valid
from domains.forecasting.models.parts.start_tokens import tail_and_horizon, tail_validity
from domains.forecasting.models.parts.token_embedding import TokenEmbedding
from shared_attention import masks
from shared_attention.choice import AttentionChoice
from shared_attention.dropout import Dropout
from shared_attention.layers import EncoderLayer, SinusoidalPositions
from shared_attention.linear import Linear
from shared_attention.masks import Mask


@dataclass(frozen=True)
class Size:
    """Widths and depths of a Transformer."""

    d_model: int
    num_heads: int
    d_ff: int
    encoder_layers: int
    decoder_layers: int
    dropout: float


class EncoderDecoder(nn.Module):
    """Encoder over the window, decoder over its last steps and the horizon, all in one pass.

    The horizon enters the decoder as zeros with its calendar (Informer's generative decoder), so
    no forecast step waits for another.

    Args:
        attention: mechanism of encoder and decoder self-attention.
        cross: mechanism of the decoder's attention to the encoder.
        size: widths and depths.
        channels: series C.
        time_features: calendar covariates F.
        outputs: quantiles, or 1.
        horizon: steps H to forecast.
        label: look-back steps at the start of the decoder.
        distil: halve the sequence between encoder layers.
    """

    def __init__(
        self,
        attention: AttentionChoice,
        cross: AttentionChoice,
        size: Size,
        *,
        channels: int,
        time_features: int,
        outputs: int,
        horizon: int,
        label: int,
        distil: bool,
    ) -> None:
        super().__init__()
        self.attention, self.cross = attention, cross
        self.channels, self.outputs = channels, outputs
        self.horizon, self.label = horizon, label
        width, heads = size.d_model, size.num_heads
        self.positions = SinusoidalPositions(width)
        self.past_embedding = TokenEmbedding(channels, time_features, width)
        self.future_embedding = TokenEmbedding(channels, time_features, width)
        self.dropout = Dropout(size.dropout)
        self.encoder = nn.ModuleList(
            EncoderLayer(attention.build(width, heads), width, size.d_ff, dropout=size.dropout)
            for _ in range(size.encoder_layers)
        )
        self.distilling = nn.ModuleList(
            Distilling(width) for _ in range(size.encoder_layers - 1 if distil else 0)
        )
        self.encoder_norm = nn.LayerNorm(width)
        self.decoder = nn.ModuleList(
            HorizonDecoderLayer(
                attention.build(width, heads),
                cross.build(width, heads, across=True),
                width,
                size.d_ff,
                dropout=size.dropout,
            )
            for _ in range(size.decoder_layers)
        )
        self.decoder_norm = nn.LayerNorm(width)
        self.project = Linear(width, channels * outputs)

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
        """Forecast `[B, H, C, outputs]`; arguments as of every forecaster."""
        refuse_covariates(self.attention.model, past_covariates, future_covariates)
        memory, memory_valid = self.encode(past, past_time, valid)
        past = keep_valid(past, valid)
        horizon = past.new_zeros(past.shape[0], self.horizon, self.channels)
        tokens = self._embed(
            self.future_embedding,
            tail_and_horizon(past, self.label, horizon),
            tail_and_horizon(past_time, self.label, future_time),
            tail := tail_validity(valid, self.label, self.horizon),
        )
        mask = _both(masks.causal(), self.attention.padding(tail))
        memory_mask = self.cross.padding(memory_valid)
        seen = {"mask": mask, "memory_mask": memory_mask}
        *whole, last = cast(list[HorizonDecoderLayer], list(self.decoder))
        for layer in whole:
            tokens = layer(tokens, memory, **seen)
        if self.cross.name == "softmax":
            tokens = last.forward_last(tokens, memory, self.horizon, **seen)
        else:
            tokens = last(tokens, memory, **seen)[:, -self.horizon :]
        hidden = self.decoder_norm(tokens)
        return ordered(as_forecast(self.project(hidden), self.channels, self.outputs))

    def encode(
        self, past: Tensor, past_time: Tensor, valid: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return what the decoder reads, `[B, S, d_model]`, and which of it is valid."""
        x = self._embed(self.past_embedding, past, past_time, valid)
        for index, layer in enumerate(self.encoder):
            x = layer(x, mask=self.attention.padding(valid))
            if index < len(self.distilling):
                x, valid = self.distilling[index](x, valid)
        return self.encoder_norm(x), valid

    def _embed(self, embedding: nn.Module, x: Tensor, time: Tensor, valid: Tensor | None) -> Tensor:
        return self.dropout(self.positions(embedding(x, time, valid)))


def _both(first: Mask, second: Mask | None) -> Mask:
    return first if second is None else first & second

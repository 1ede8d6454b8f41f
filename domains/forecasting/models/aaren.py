"""A streaming forecaster on "Attention as an RNN" (Feng et al. 2024, arXiv 2405.13956)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from domains.forecasting.models.parts.covariates import refuse_covariates
from domains.forecasting.models.parts.heads import as_forecast, ordered
from domains.forecasting.models.parts.normalisation import keep_valid
from domains.forecasting.models.parts.running_scale import (
    RunningScale,
    empty_scale,
    running_scales,
    update_scale,
)
from shared_attention.dropout import Dropout
from shared_attention.layers.stream_layer import StreamLayer, choose_streaming
from shared_attention.linear import Linear


class AarenState(NamedTuple):
    """All that is kept of a stream; its size does not grow with the stream."""

    scale: RunningScale
    recent: Tensor
    """`[B, K, C]`, the latest observations, oldest first; zero where not valid."""
    recent_valid: Tensor
    """bool `[B, K]`."""
    layers: tuple[Any, ...]
    hidden: Tensor
    """`[B, d_model]`, what the last layer says at the latest step."""


class AarenForecaster(nn.Module):
    """Takes in one observation at a time in constant time and memory, and forecasts whenever asked.

    A token is the last `recent` observations, normalised by statistics that follow the stream,
    with the calendar of its step. There are no positions, so a stream may be of any length.
    `forward` over a window gives what `init_state` and a `step` for each observation give.

    Args:
        lookback: length L of training windows; also the memory of the running statistics.
        horizon: steps H to forecast.
        channels: series C.
        time_features: calendar covariates F.
        outputs: quantiles, or 1 for a point forecast.
        attention: a mechanism whose state is constant; None is the paper's `scan`.
        attention_options: its options.
        d_model: width.
        num_heads: heads.
        d_ff: width of the feed-forward layers.
        layers: Aaren layers.
        dropout: probability.
        recent: observations in one token.

    Raises:
        UnsupportedError: `attention` does not stream with a constant state.
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
        recent: int = 24,
    ) -> None:
        super().__init__()
        choice = choose_streaming("AarenForecaster", attention, attention_options)
        self.horizon, self.channels, self.outputs = horizon, channels, outputs
        self.recent, self.decay = recent, 1 - 1 / lookback
        self.embed = Linear(recent * channels + time_features, d_model)
        self.dropout = Dropout(dropout)
        self.layers = nn.ModuleList(
            StreamLayer(choice, d_model, num_heads, d_ff, dropout) for _ in range(layers)
        )
        self.direct = Linear(d_model, horizon * channels * outputs)
        self.context = Linear(d_model, d_model)
        self.calendar = Linear(time_features, d_model, bias=False)
        self.seasonal = Linear(d_model, channels * outputs)

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
            valid: bool `[B, L]`, False where padded or missing; such steps leave no trace.
        """
        refuse_covariates("AarenForecaster", past_covariates, future_covariates)
        past, past_time = keep_valid(past, valid), keep_valid(past_time, valid)
        scales = running_scales(past, valid, self.decay)
        earlier = (0, 0, self.recent - 1, 0)
        recent = functional.pad(past, earlier).unfold(1, self.recent, 1)
        seen = past.new_ones(past.shape[:2], dtype=torch.bool) if valid is None else valid
        seen = functional.pad(seen, (self.recent - 1, 0)).unfold(1, self.recent, 1)
        x = self._token(recent.transpose(2, 3), seen, scales, past_time)
        for layer in self.layers:
            x = layer(x, valid)
        last = RunningScale(*(field[:, -1] for field in scales))
        return self._decode(x[:, -1], last, future_time)

    def init_state(self, batch: int) -> AarenState:
        """Return the state of `batch` streams of which nothing was seen."""
        like = self.embed.weight
        return AarenState(
            scale=empty_scale(batch, self.channels, like),
            recent=like.new_zeros(batch, self.recent, self.channels),
            recent_valid=torch.zeros(batch, self.recent, dtype=torch.bool, device=like.device),
            layers=tuple(layer.init_state(batch, like) for layer in self._stream()),
            hidden=like.new_zeros(batch, like.shape[0]),
        )

    def step(
        self,
        observation: Tensor,
        time_features: Tensor,
        state: AarenState,
        *,
        valid: Tensor | None = None,
    ) -> AarenState:
        """Take in one observation.

        Args:
            observation: `[B, C]`.
            time_features: `[B, F]`.
            state: of the streams so far; not changed.
            valid: bool `[B]`, False where there is no observation this time.
        """
        if valid is None:
            valid = torch.ones(len(observation), dtype=torch.bool, device=observation.device)
        observation = torch.where(valid.unsqueeze(1), observation, 0.0)
        time_features = torch.where(valid.unsqueeze(1), time_features, 0.0)
        scale = update_scale(state.scale, observation, valid, self.decay)
        recent = torch.cat([state.recent[:, 1:], observation.unsqueeze(1)], dim=1)
        seen = torch.cat([state.recent_valid[:, 1:], valid.unsqueeze(1)], dim=1)
        x = self._token(recent, seen, scale, time_features)
        states = []
        for layer, past in zip(self._stream(), state.layers, strict=True):
            x, after = layer.step(x, past, valid)
            states.append(after)
        return AarenState(scale, recent, seen, tuple(states), x)

    def forecast(self, state: AarenState, future_time: Tensor) -> Tensor:
        """Forecast `[B, H, C, outputs]` after the latest observation.

        Args:
            state: of the streams so far.
            future_time: `[B, H, F]`.
        """
        return self._decode(state.hidden, state.scale, future_time)

    def _stream(self) -> Iterator[StreamLayer]:
        return (layer for layer in self.layers if isinstance(layer, StreamLayer))

    def _token(self, recent: Tensor, seen: Tensor, scale: RunningScale, time: Tensor) -> Tensor:
        """Embed `recent` `[..., K, C]` and `time` `[..., F]` as `[..., d_model]`."""
        normal = (recent - scale.mean.unsqueeze(-2)) / scale.spread().unsqueeze(-2)
        normal = keep_valid(normal, seen).flatten(-2)
        return self.dropout(self.embed(torch.cat([normal, time], dim=-1)))

    def _decode(self, hidden: Tensor, scale: RunningScale, future_time: Tensor) -> Tensor:
        direct = self.direct(hidden).unflatten(-1, (self.horizon, -1))
        steps = self.context(hidden).unsqueeze(1) + self.calendar(future_time)
        forecast = direct + self.seasonal(functional.gelu(steps))
        return scale.restore(ordered(as_forecast(forecast, self.channels, self.outputs)))

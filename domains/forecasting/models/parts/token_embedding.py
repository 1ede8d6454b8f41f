"""One token per time step: values with their neighbours, and the calendar."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from domains.forecasting.models.parts.circular import with_neighbours
from domains.forecasting.models.parts.normalisation import keep_valid
from shared_attention.linear import linear


class TokenEmbedding(nn.Module):
    """Kernel-3 circular convolution of the values plus a linear map of the calendar.

    Both are one matrix product over `[previous, current, next, calendar]`, which gives
    `[B, L, d_model]` without transposing. The circular neighbour is always one step (published
    Informer code compares torch versions as strings and pads by two in torch 1.10 to 1.13, which
    lengthens the series). Padded steps count as zero.

    Args:
        channels: values per time step.
        time_features: calendar covariates per time step; may be 0.
        d_model: size of a token.

    Source: Informer (Zhou et al. 2021), appendix B; used by Autoformer and Flowformer too.
    """

    def __init__(self, channels: int, time_features: int, d_model: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.empty(d_model, 3 * channels))
        self.calendar = nn.Parameter(torch.empty(d_model, time_features))
        nn.init.kaiming_normal_(self.values, nonlinearity="leaky_relu")
        if time_features:
            nn.init.kaiming_uniform_(self.calendar, a=math.sqrt(5))

    def forward(self, x: Tensor, time: Tensor, valid: Tensor | None = None) -> Tensor:
        """Embed `x` `[B, L, channels]` with calendar `[B, L, F]` as `[B, L, d_model]`."""
        inputs = [with_neighbours(keep_valid(x, valid)), keep_valid(time, valid)]
        weight = torch.cat([self.values, self.calendar], dim=1)
        return linear(torch.cat(inputs, dim=-1), weight)

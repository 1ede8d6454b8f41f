"""Position attention on maps with channels first, with scores of any mechanism."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from shared_attention.choice import choose_attention
from shared_attention.registry import catalogue

PAPER = "position"


def to_tokens(x: Tensor) -> Tensor:
    """Serialise `[B, C, *grid]`: slice after slice, row after row, `[B, tokens, C]`."""
    return x.flatten(2).transpose(1, 2)


def to_grid(tokens: Tensor, like: Tensor) -> Tensor:
    """Lay `[B, tokens, C]` out on the grid of `like` `[B, C, *grid]`."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, *like.shape[2:])


def heads_of(channels: int, width: int = 16) -> int:
    """Return the number of heads of about `width` channels that divides `channels`."""
    return math.gcd(channels, max(1, channels // width))


class PositionModule(nn.Module):
    """x + γ attention(x) over all positions of a map: PAM, or another mechanism in its place.

    Args:
        model: name of the model, for messages.
        channels: C.
        attention: None or `position`: the catalogue's position attention; else the name of a
            mechanism with queries, keys and values, which takes the place of its scores.
        options: options of the mechanism.
        gamma: what γ starts with; 0 as in dual attention networks leaves queries and keys without
            a gradient at the first step.

    Raises:
        UnsupportedError: The mechanism is unknown, of another family or always causal.
    """

    def __init__(
        self,
        model: str,
        channels: int,
        *,
        attention: str | None = None,
        options: Mapping[str, Any] | None = None,
        gamma: float = 0.0,
    ) -> None:
        super().__init__()
        if attention in (None, PAPER):
            settings = {"reduction": min(8, channels), **(options or {})}
            position = catalogue()[PAPER].build(channels=channels, **settings)
            nn.init.constant_(position.get_parameter("gamma"), gamma)
            self.position: nn.Module | None = position
            return
        choice = choose_attention(model, attention, options, default="softmax")
        choice.require_unordered()
        self.position = None
        self.attention = choice.build(channels, heads_of(channels))
        self.mask = choice.padding(None)
        self.gamma = nn.Parameter(torch.full((1,), gamma))

    def forward(self, x: Tensor, places: Tensor | None = None) -> Tensor:
        """Map `x` `[B, C, *grid]` to the same shape.

        Args:
            x: `[B, C, *grid]`.
            places: `[1, tokens, C]` added to the tokens before, or None.
        """
        tokens = to_tokens(x)
        if places is not None:
            tokens = tokens + places
        if self.position is not None:
            grid = tokens.unflatten(1, x.shape[2:])
            return to_grid(self.position(grid).flatten(1, -2), x)
        return to_grid(tokens + self.gamma * self.attention(tokens, mask=self.mask), x)

"""Position attention on maps with channels first, with scores of any mechanism."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared_attention.choice import choose_attention
from shared_attention.registry import catalogue

PAPER = "position"
POSITIONS = 4096
"""Positions that attend to each other exactly, at most."""

GAMMA = 0.1
"""What γ starts with. Dual attention networks start at 0, where attention does nothing and its
queries, keys and values have no gradient; few steps of training then hardly use it."""


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

    Cost is quadratic, so a map of more than `POSITIONS` positions is averaged over equal blocks
    first, and what attention adds to a block is added to each of its positions.

    Args:
        model: name of the model, for messages.
        channels: C.
        attention: None or `position`: the catalogue's position attention; else the name of a
            mechanism with queries, keys and values, which takes the place of its scores.
        options: options of the mechanism.

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
    ) -> None:
        super().__init__()
        if attention in (None, PAPER):
            settings = {"reduction": min(8, channels), **(options or {})}
            position = catalogue()[PAPER].build(channels=channels, **settings)
            nn.init.constant_(position.get_parameter("gamma"), GAMMA)
            self.position: nn.Module | None = position
            return
        choice = choose_attention(model, attention, options, default="softmax")
        choice.require_unordered()
        self.position = None
        self.attention = choice.build(channels, heads_of(channels))
        self.mask = choice.padding(None)
        self.gamma = nn.Parameter(torch.full((1,), GAMMA))

    def forward(self, x: Tensor, places: Callable[..., Tensor] | None = None) -> Tensor:
        """Map `x` `[B, C, *grid]` to the same shape.

        Args:
            x: `[B, C, *grid]`.
            places: gives `[1, tokens, C]` for a grid and the positions of `x` between its tokens,
                which are added to the tokens before.
        """
        factor = block_edge(x.shape[2:])
        pooled = block_mean(x, [factor] * (x.dim() - 2))
        tokens = to_tokens(pooled)
        if places is not None:
            tokens = tokens + places(pooled.shape[2:], factor)
        if self.position is None:
            attended = tokens + self.gamma * self.attention(tokens, mask=self.mask)
        else:
            attended = self.position(tokens.unflatten(1, pooled.shape[2:])).flatten(1, -2)
        out = to_grid(attended, pooled)
        return out if factor == 1 else x + F.interpolate(out - pooled, size=x.shape[2:])


def block_edge(grid: Sequence[int]) -> int:
    """Return the smallest edge of blocks that leave at most `POSITIONS` of them."""
    edge = 1
    while math.prod(-(-size // edge) for size in grid) > POSITIONS:
        edge += 1
    return edge


def block_mean(x: Tensor, edges: Sequence[int]) -> Tensor:
    """Return the means of blocks of `x` `[B, C, *grid]`; the last of an axis may be smaller."""
    if set(edges) == {1}:
        return x
    pool = F.avg_pool2d if x.dim() == 4 else F.avg_pool3d
    return pool(x, list(edges), ceil_mode=True, count_include_pad=False)

"""Series decomposition of Autoformer: a moving average and what is left of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def _window_sums(x: Tensor, width: int) -> Tensor:
    """Sum every `width` consecutive steps of `[B, L, D]`; result `[B, L - width + 1, D]`.

    Windows of length 1, 2, 4, ... are built by doubling and added up along the binary digits of
    `width`: about 2 log2(width) passes over memory, and no running sum whose error grows with L.
    """
    steps = x.shape[1] - width + 1
    total: Tensor | None = None
    offset, size, rest = 0, 1, width
    while rest:
        if rest & 1:
            window = x[:, offset : offset + steps]
            total = window.clone() if total is None else total.add_(window)
            offset += size
        rest >>= 1
        if rest:
            x = x[:, :-size] + x[:, size:]
            size *= 2
    return x if total is None else total


def _repeat_ends(x: Tensor, count: int) -> Tensor:
    first, last = x[:, :1], x[:, -1:]
    return torch.cat([first.expand(-1, count, -1), x, last.expand(-1, count, -1)], dim=1)


class _MovingAverage(torch.autograd.Function):
    """Moving average whose gradient is again window sums, instead of a tape of additions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, width: int) -> Tensor:
        ctx.width = width
        return _window_sums(_repeat_ends(x, width // 2), width).div_(width)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        half, length = ctx.width // 2, grad.shape[1]
        spread = _window_sums(functional.pad(grad, (0, 0, 2 * half, 2 * half)), ctx.width)
        inner = spread[:, half : half + length].clone()
        inner[:, 0] += spread[:, :half].sum(dim=1)
        inner[:, -1] += spread[:, half + length :].sum(dim=1)
        return inner.div_(ctx.width), None


def moving_average(x: Tensor, width: int) -> Tensor:
    """Return the centred moving average of `[B, L, D]` along L, ends repeated.

    Args:
        x: `[B, L, D]`.
        width: odd number of steps.

    Raises:
        ValueError: `width` is even or not positive.
    """
    if width < 1 or width % 2 == 0:
        raise ValueError(f"moving_average: width must be odd and positive, got {width}")
    return _MovingAverage.apply(x, width)


def decompose(x: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Split `[B, L, D]` into `(seasonal, trend)`; their sum is `x`.

    Source: Autoformer (Wu et al. 2021), equation 1.
    """
    trend = moving_average(x, width)
    return x - trend, trend


class CentredLayerNorm(nn.Module):
    """Layer norm followed by removal of the mean over time, so that no trend is left in it.

    The published code keeps the bias of the norm; it is constant over time and cancels in the
    mean, so there is none here. Source: Autoformer, official code.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `[B, L, d_model]`."""
        normal = self.norm(x)
        return normal - normal.mean(dim=1, keepdim=True)

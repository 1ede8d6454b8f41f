"""Level and spread that follow a stream: causal, constant memory, same in parallel and by step."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_VARIANCE_FLOOR = 1e-5


class RunningScale(NamedTuple):
    """Total weight `[B, 1]`, mean and sum of squared deviations `[B, C]` of what was seen.

    The weight of an observation falls by `decay` with each valid one after it.
    """

    weight: Tensor
    mean: Tensor
    squares: Tensor

    def spread(self) -> Tensor:
        """Return the standard deviation, `[B, C]` (or `[B, L, C]` from `running_scales`)."""
        return (self.squares / self.weight.clamp(min=1) + _VARIANCE_FLOOR).sqrt()

    def restore(self, forecast: Tensor) -> Tensor:
        """Bring `[B, H, C, outputs]` back to the units of the stream."""
        return forecast * self.spread()[:, None, :, None] + self.mean[:, None, :, None]


def empty_scale(batch: int, channels: int, like: Tensor) -> RunningScale:
    """Return the scale of a stream of which nothing was seen."""
    return RunningScale(
        like.new_zeros(batch, 1), like.new_zeros(batch, channels), like.new_zeros(batch, channels)
    )


def update_scale(scale: RunningScale, x: Tensor, valid: Tensor, decay: float) -> RunningScale:
    """Take in one observation `[B, C]`; where `valid` `[B]` is False nothing changes.

    Source: West, "Updating mean and variance estimates", 1979, with decaying weights.
    """
    seen = valid.unsqueeze(1)
    weight = scale.weight * decay + 1
    change = x - scale.mean
    mean = scale.mean + change / weight
    squares = scale.squares * decay + change * (x - mean)
    return RunningScale(
        torch.where(seen, weight, scale.weight),
        torch.where(seen, mean, scale.mean),
        torch.where(seen, squares, scale.squares),
    )


def running_scales(x: Tensor, valid: Tensor | None, decay: float) -> RunningScale:
    """Return the scale after each step of `x` `[B, L, C]`: fields `[B, L, 1]` or `[B, L, C]`.

    The recurrence of `update_scale` is linear in what each step adds, so one product with a
    triangular matrix of weights gives every step at once.
    """
    if valid is None:
        order = torch.arange(x.shape[1], device=x.device).unsqueeze(0)
        counted = x.new_ones(1, x.shape[1])
    else:
        order = valid.cumsum(dim=1)
        counted = valid.to(x.dtype)
    age = (order.unsqueeze(2) - order.unsqueeze(1)).clamp(min=0)
    kernel = (decay**age).to(x.dtype).tril() * counted.unsqueeze(1)
    weight = kernel.sum(dim=2, keepdim=True)
    mean = kernel @ x / weight.clamp(min=1)
    before = torch.cat([torch.zeros_like(mean[:, :1]), mean[:, :-1]], dim=1)
    squares = kernel @ ((x - before) * (x - mean))
    return RunningScale(weight.expand(x.shape[0], -1, -1), mean, squares)

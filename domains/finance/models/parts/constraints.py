"""Parameters that must stay within a set, without writing to them while the model runs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def between(x: Tensor, low: float | None = None, high: float | None = None) -> Tensor:
    """Return `x` `[1]` clipped to `[low, high]`."""
    return _Projection.apply(x, x.detach().clamp(low, high))


def within_norm(x: Tensor, largest: float) -> Tensor:
    """Return `x`, shrunk to the Frobenius norm `largest` where its own is larger."""
    value = x.detach()
    norm = torch.linalg.vector_norm(value)
    return _Projection.apply(x, value * (largest / norm.clamp_min(largest)))


class _Projection(torch.autograd.Function):
    """The nearest point of a convex set, with the gradient of projected gradient descent.

    What would lead a parameter further outside is taken out of its gradient; what leads back
    stays, so a parameter that has left the set can return.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, nearest: Tensor) -> Tensor:
        ctx.save_for_backward(x - nearest)
        return nearest.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (outward,) = ctx.saved_tensors
        gradient = gradients[0]
        along = (gradient * outward).sum().clamp(max=0)
        tiny = torch.finfo(outward.dtype).tiny
        return gradient - outward * (along / outward.square().sum().clamp_min(tiny)), None

"""Rearranging rows by index, with a backward pass that is a rearrangement too."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def rearrange_rows(x: Tensor, there: Tensor, back: Tensor) -> Tensor:
    """Return the rows `there` of `x`; the gradient takes the rows `back` instead of adding up.

    Args:
        x: `[N, C]`.
        there: int64 `[M]`, where each row of the output comes from; -1 gives a row of zeros.
        back: int64 `[N]`, where each row of `x` goes to; -1 is nowhere. It must be the inverse.

    Returns:
        `[M, C]`.
    """
    if torch.is_grad_enabled() and x.requires_grad and not torch.compiler.is_compiling():
        return _Rearrange.apply(x, there, back)
    return _take(x, there, back)


def _take(x: Tensor, there: Tensor, back: Tensor) -> Tensor:
    if len(there) <= len(back):
        return F.embedding(there, x)
    taken = F.embedding(there.clamp(min=0), x)
    return taken.masked_fill_((there < 0)[:, None], 0)


class _Rearrange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, there: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(there, back)
        return _take(x, there, back)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        there, back = ctx.saved_tensors
        return rearrange_rows(gradient, back, there), None, None

"""Dropout whose random numbers and memory cost little on processors.

PyTorch draws one random number per element, which at small widths takes a tenth to a fifth of a
training step. Sixteen random bits decide as well, and one 64-bit draw gives four of them. What is
kept for the backward pass is one byte per element.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_STEPS = 2**16
_LOWEST = -(2**63)


def dropout(x: Tensor, p: float, *, inplace: bool = False) -> Tensor:
    """Zero elements of `x` with probability `p` and scale the others so that the mean is kept.

    The probability is rounded to a multiple of 2^-16, and the scale is that of the rounded one.
    Randomness is that of `torch.manual_seed`.

    Args:
        x: any shape.
        p: probability.
        inplace: overwrite `x`, which nothing else may need again.
    """
    dropped = round(p * _STEPS)
    if x.device.type != "cpu" or dropped in (0, _STEPS) or torch.compiler.is_compiling():
        return functional.dropout(x, p, inplace=inplace)
    count = x.numel()
    words = torch.empty((count + 3) // 4, dtype=torch.int64).random_(_LOWEST, None)
    drop = words.view(torch.int16)[:count].view(x.shape) < dropped - _STEPS // 2
    return _Drop.apply(x, drop, _STEPS / (_STEPS - dropped), inplace)


class _Drop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, drop: Tensor, scale: float, inplace: bool) -> Tensor:
        ctx.save_for_backward(drop)
        ctx.scale = scale
        if inplace:
            ctx.mark_dirty(x)
            return x.mul_(scale).masked_fill_(drop, 0)
        return (x * scale).masked_fill_(drop, 0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (drop,) = ctx.saved_tensors
        return (gradients[0] * ctx.scale).masked_fill(drop, 0), None, None, None


class Dropout(nn.Dropout):
    """`nn.Dropout` computed by `dropout`."""

    def forward(self, x: Tensor) -> Tensor:
        """Drop elements of `x` in training; return it unchanged in evaluation."""
        return dropout(x, self.p, inplace=self.inplace) if self.training else x

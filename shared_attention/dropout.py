"""Dropout whose random numbers cost little on processors.

PyTorch draws one random number per element, which at small widths takes a tenth to a fifth of a
training step. Sixteen random bits decide as well, and one 64-bit draw gives four of them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_STEPS = 2**16
_LOWEST = -(2**63)


def dropout(x: Tensor, p: float) -> Tensor:
    """Zero elements of `x` with probability `p` and scale the others so that the mean is kept.

    The probability is rounded to a multiple of 2^-16, and the scale is that of the rounded one.
    Randomness is that of `torch.manual_seed`.
    """
    dropped = round(p * _STEPS)
    if x.device.type != "cpu" or dropped in (0, _STEPS) or torch.compiler.is_compiling():
        return functional.dropout(x, p)
    count = x.numel()
    words = torch.empty((count + 3) // 4, dtype=torch.int64).random_(_LOWEST, None)
    bits = words.view(torch.int16)[:count].view(x.shape)
    keep = (bits >= dropped - _STEPS // 2) * (_STEPS / (_STEPS - dropped))
    return x * keep.to(x.dtype)


class Dropout(nn.Dropout):
    """`nn.Dropout` computed by `dropout`."""

    def forward(self, x: Tensor) -> Tensor:
        """Drop elements of `x` in training; return it unchanged in evaluation."""
        return dropout(x, self.p) if self.training else x

"""Rearranging rows by index, with a backward pass that is a rearrangement too."""

from __future__ import annotations

from typing import Any, NamedTuple

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
    if not torch.compiler.is_compiling() and len(there) <= len(back):
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


class Layout(NamedTuple):
    """How rows of `[B, H, L, D]` lie in memory: `[B, L, H]` where heads come last."""

    batch: int
    heads: int
    length: int
    heads_last: bool

    @classmethod
    def of(cls, *tensors: Tensor) -> Layout:
        """Return the layout in which most often nothing has to be copied."""
        last = all(x.transpose(1, 2).is_contiguous() for x in tensors)
        batch, heads, length, _ = tensors[0].shape
        return cls(batch, heads, length, last)

    def rows(self, x: Tensor) -> Tensor:
        """Return `[B, H, L, D]` as `[N, D]`."""
        return (x.transpose(1, 2) if self.heads_last else x).flatten(0, 2)

    def undo(self, rows: Tensor) -> Tensor:
        """Return `[N, D]` as `[B, H, L, D]`."""
        if self.heads_last:
            return rows.view(self.batch, self.length, self.heads, -1).transpose(1, 2)
        return rows.view(self.batch, self.heads, self.length, -1)

    def number(self, position: Tensor) -> Tensor:
        """Return which rows positions `[B, H, n]` are, `[B * H * n]`."""
        pair = torch.arange(self.batch * self.heads, device=position.device)
        pair = pair.view(self.batch, self.heads, 1)
        if not self.heads_last:
            return (pair * self.length + position).flatten()
        sample, head = pair // self.heads, pair % self.heads
        return ((sample * self.length + position) * self.heads + head).flatten()

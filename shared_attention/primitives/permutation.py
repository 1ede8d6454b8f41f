"""Sorting along the last dimension and undoing it, with gradients that are permutations too."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def ascending(x: Tensor) -> Tensor:
    """Return the positions that sort the last dimension; equal values keep their order.

    On CPU float32 values are sorted as integers of 64 bits, their own above those of their
    positions: no two are equal, so the fastest sort will do, and that is NumPy's.
    """
    if x.dtype != torch.float32 or x.device.type != "cpu" or torch.compiler.is_compiling():
        return torch.sort(x.detach(), dim=-1, stable=True).indices
    bits = x.detach().contiguous().view(torch.int32)
    keys = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long() << 32
    keys |= torch.arange(x.shape[-1])
    keys.numpy().sort(axis=-1)
    keys &= 2**32 - 1
    return keys


def take(x: Tensor, order: Tensor) -> Tensor:
    """Return x[..., order] for a permutation `order` of the last dimension, same shape as x."""
    return _Take.apply(x, order)


def put_back(x: Tensor, order: Tensor) -> Tensor:
    """Undo `take` with the same order."""
    return _PutBack.apply(x, order)


class _Take(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor) -> Tensor:
        ctx.save_for_backward(order)
        return x.gather(-1, order)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _PutBack.apply(gradients[0], ctx.saved_tensors[0]), None


class _PutBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor) -> Tensor:
        ctx.save_for_backward(order)
        return torch.empty_like(x).scatter_(-1, order, x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _Take.apply(gradients[0], ctx.saved_tensors[0]), None

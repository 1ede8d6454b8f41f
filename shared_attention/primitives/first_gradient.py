"""Refusing second derivatives where a backward pass that is written out has none."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from shared_attention.errors import UnsupportedError

Gradients = tuple[Tensor | None, ...]


def first_gradient(backward: Callable[..., Gradients]) -> Callable[..., Gradients]:
    """Mark the `backward` of an autograd function: differentiating its result raises.

    PyTorch's `once_differentiable` cuts the result off from the inputs: `autograd.grad` with
    respect to them then leaves out the missing part in silence. Here the result depends on the
    incoming gradients and on the tensors that were saved, which have to include the inputs.
    """

    @functools.wraps(backward)
    def run(ctx: Any, *gradients: Tensor) -> Gradients:
        with torch.no_grad():
            found = backward(ctx, *gradients)
        if not torch.is_grad_enabled():
            return found
        name = backward.__module__.rpartition(".")[2]
        given = [x for x in found if x is not None]
        kept = iter(_Refuse.apply(name, len(given), *given, *gradients, *ctx.saved_tensors))
        return tuple(None if x is None else next(kept) for x in found)

    return run


class _Refuse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, name: str, count: int, *tensors: Tensor) -> Gradients:
        ctx.name = name
        return tuple(x.view_as(x) for x in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Gradients:
        raise UnsupportedError(
            f"{ctx.name}: second derivatives are not supported on this path; "
            "its gradient can be taken once"
        )

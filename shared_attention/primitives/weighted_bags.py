"""Weighted sums of rows, and their backward pass as weighted sums of rows too."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from shared_attention.primitives.first_gradient import first_gradient


def weighted_bags(table: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """Return Σ_k weights_nk · table[index_nk] without storing the rows that are read.

    PyTorch's backward pass to the table visits the rows one by one; on CPU it is faster to sort
    the indices and sum, for every row, the bags that read it.

    Args:
        table: `[R, d]`.
        index: int64 `[N, K]`.
        weights: `[N, K]`, the type of `table`.

    Returns:
        `[N, d]`.
    """
    own_backward = torch.is_grad_enabled() and table.requires_grad and table.device.type == "cpu"
    if own_backward and not torch.compiler.is_compiling():
        return _Bags.apply(table, index, weights)
    return F.embedding_bag(index, table, per_sample_weights=weights, mode="sum")


class _Bags(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(table, index, weights)
        return F.embedding_bag(index, table, per_sample_weights=weights, mode="sum")

    @staticmethod
    @first_gradient
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, Tensor | None]:
        table, index, weights = ctx.saved_tensors
        gradient = gradient.contiguous()
        flat = index.flatten()
        short = flat.int() if len(table) < 2**31 else flat
        order = short.sort().indices
        counts = torch.bincount(flat, minlength=len(table))
        d_table = F.embedding_bag(
            order // index.shape[1],
            gradient,
            counts.cumsum(0) - counts,
            per_sample_weights=weights.flatten().index_select(0, order),
            mode="sum",
        )
        d_weights = None
        if ctx.needs_input_grad[2]:
            with torch.enable_grad():
                again = weights.detach().requires_grad_()
                out = F.embedding_bag(index, table, per_sample_weights=again, mode="sum")
            (d_weights,) = torch.autograd.grad(out, again, gradient)
        return d_table, None, d_weights

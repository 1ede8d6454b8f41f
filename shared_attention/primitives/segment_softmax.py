"""Softmax over the entries of a list that carry the same segment number, such as incoming edges."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def segment_softmax(scores: Tensor, segments: Tensor, count: int) -> Tensor:
    """Normalise scores within each segment.

    Args:
        scores: `[E, ...]`; -inf hides an entry.
        segments: int64 `[E]` in 0..count-1, in any order.
        count: Number of segments.

    Returns:
        Weights of the same shape, which add up to one in each segment; zero where a segment has
        only hidden entries.
    """
    if torch.compiler.is_compiling():
        return _softmax(scores, segments, count)
    return _Softmax.apply(scores, segments, count)


def _softmax(scores: Tensor, segments: Tensor, count: int) -> Tensor:
    fixed = scores.detach()
    index = segments.view(-1, *(1,) * (scores.dim() - 1)).expand_as(scores)
    top = fixed.new_full((count, *scores.shape[1:]), -torch.inf)
    top = top.scatter_reduce(0, index, fixed, "amax")
    top = top.masked_fill(top == -torch.inf, 0)
    weights = (scores - top.index_select(0, segments)).exp()
    total = weights.new_zeros(count, *scores.shape[1:]).index_add(0, segments, weights)
    total = torch.where(total > 0, total, 1)
    return weights / total.index_select(0, segments)


class _Softmax(torch.autograd.Function):
    """The same; its gradient needs nothing but the weights."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, segments: Tensor, count: int) -> Tensor:
        weights = _softmax(scores, segments, count)
        ctx.save_for_backward(weights, segments)
        ctx.count = count
        return weights

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        weights, segments = ctx.saved_tensors
        moved = weights * gradients[0]
        total = moved.new_zeros(ctx.count, *moved.shape[1:]).index_add(0, segments, moved)
        return moved - weights * total.index_select(0, segments), None, None

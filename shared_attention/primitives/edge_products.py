"""Products along edges that never hold one row for every edge: each is the other's gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from shared_attention.primitives.first_gradient import first_gradient

ROWS_AT_ONCE = 2**17
"""Numbers gathered at a time; half a float32 megabyte stays in the cache."""


def edge_scores(q: Tensor, k: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Return q_target · k_source for every edge.

    Args:
        q: `[N, H, d]`.
        k: `[M, H, d]`, M = N unless sources are of another kind.
        source: int64 `[E]`.
        target: int64 `[E]`.

    Returns:
        `[E, H]`.
    """
    if torch.compiler.is_compiling():
        return (q.index_select(0, target) * k.index_select(0, source)).sum(-1)
    return _Scores.apply(q, k, source, target)


def edge_sums(weights: Tensor, v: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Return for every node the sum of weight · v_source over its incoming edges.

    Args:
        weights: `[E, H]`.
        v: `[N, H, d]`.
        source: int64 `[E]`.
        target: int64 `[E]`.

    Returns:
        `[N, H, d]`.
    """
    if torch.compiler.is_compiling():
        read = weights[..., None] * v.index_select(0, source)
        return torch.zeros_like(v).index_add(0, target, read)
    return _Sums.apply(weights, v, source, target)


def _scores(q: Tensor, k: Tensor, source: Tensor, target: Tensor) -> Tensor:
    out = q.new_empty(len(source), q.shape[1])
    step = max(1, ROWS_AT_ONCE // q[0].numel())
    for at in range(0, len(source), step):
        part = slice(at, at + step)
        read = q.index_select(0, target[part]).mul_(k.index_select(0, source[part]))
        torch.sum(read, -1, out=out[part])
    return out


def _sums(weights: Tensor, v: Tensor, source: Tensor, target: Tensor, count: int) -> Tensor:
    out = v.new_zeros(count, *v.shape[1:])
    step = max(1, ROWS_AT_ONCE // v[0].numel())
    for at in range(0, len(source), step):
        part = slice(at, at + step)
        read = v.index_select(0, source[part]).mul_(weights[part, :, None])
        out.index_add_(0, target[part], read)
    return out


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, source: Tensor, target: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, source, target)
        return _scores(q, k, source, target)

    @staticmethod
    @first_gradient
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, source, target = ctx.saved_tensors
        d_q = _sums(gradient, k, source, target, len(q))
        return d_q, _sums(gradient, q, target, source, len(k)), None, None


class _Sums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, v: Tensor, source: Tensor, target: Tensor) -> Tensor:
        ctx.save_for_backward(weights, v, source, target)
        return _sums(weights, v, source, target, len(v))

    @staticmethod
    @first_gradient
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weights, v, source, target = ctx.saved_tensors
        d_weights = _scores(gradient, v, source, target)
        return d_weights, _sums(weights, gradient, target, source, len(v)), None, None

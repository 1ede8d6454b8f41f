"""Products along edges that never hold one row for every edge: each is the other's gradient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from shared_attention.primitives.first_gradient import first_gradient

NUMBERS_AT_ONCE = 2**18
"""Numbers gathered at a time for each core; a float32 megabyte stays in its cache."""


def edge_scores(q: Tensor, k: Tensor, source: Tensor | None, target: Tensor) -> Tensor:
    """Return q_target · k_source for every edge.

    Args:
        q: `[N, H, d]`.
        k: `[M, H, d]`, M = N unless sources are of another kind; or `[E, 1, d]`, one row for
            each edge and all heads.
        source: int64 `[E]`; None where k has a row for each edge.
        target: int64 `[E]`.

    Returns:
        `[E, H]`.
    """
    if torch.compiler.is_compiling():
        return (q.index_select(0, target) * _read(k, source)).sum(-1)
    return _Scores.apply(q, k, source, target)


def edge_sums(
    weights: Tensor, v: Tensor, source: Tensor | None, target: Tensor, count: int
) -> Tensor:
    """Return for every node the sum of weight · v_source over its incoming edges.

    Args:
        weights: `[E, H]`.
        v: `[M, H, d]`; or `[E, 1, d]`, one row for each edge and all heads.
        source: int64 `[E]`; None where v has a row for each edge.
        target: int64 `[E]`.
        count: Number of nodes N.

    Returns:
        `[N, H, d]`.
    """
    if torch.compiler.is_compiling():
        read = weights[..., None] * _read(v, source)
        return read.new_zeros(count, *read.shape[1:]).index_add(0, target, read)
    return _Sums.apply(weights, v, source, target, count)


def _read(x: Tensor, rows: Tensor | None) -> Tensor:
    return x if rows is None else x.index_select(0, rows)


def _parts(edges: int, numbers: int) -> Iterator[slice]:
    """Cut edges, each of so many numbers, into parts that stay in the cache."""
    step = max(1, NUMBERS_AT_ONCE * torch.get_num_threads() // numbers)
    for start in range(0, edges, step):
        yield slice(start, start + step)


def _scores(q: Tensor, k: Tensor, source: Tensor | None, target: Tensor) -> Tensor:
    _, heads, width = q.shape
    out, ones = q.new_empty(len(target), heads), q.new_ones(width)
    for part in _parts(len(target), heads * width):
        read = q.index_select(0, target[part])
        read *= k[part] if source is None else k.index_select(0, source[part])
        torch.mv(read.view(-1, width), ones, out=out[part].view(-1))
    return out


def _sums(weights: Tensor, v: Tensor, source: Tensor | None, target: Tensor, count: int) -> Tensor:
    heads, width = weights.shape[1], v.shape[2]
    out = v.new_zeros(count, heads, width)
    for part in _parts(len(target), heads * width):
        if source is None:
            read = weights[part, :, None] * v[part]
        else:
            read = v.index_select(0, source[part]).mul_(weights[part, :, None])
        out.index_add_(0, target[part], read)
    return out


def _each(weights: Tensor, q: Tensor, target: Tensor) -> Tensor:
    """Return Σ_h weight · q_target for every edge, `[E, 1, d]`."""
    _, heads, width = q.shape
    out = q.new_empty(len(target), 1, width)
    for part in _parts(len(target), heads * width):
        read = q.index_select(0, target[part])
        torch.bmm(weights[part, None], read, out=out[part])
    return out


def _to_sources(
    weights: Tensor, q: Tensor, source: Tensor | None, target: Tensor, k: Tensor
) -> Tensor:
    """Return the gradient of `k`, whose row for each edge gets weight · q_target."""
    if source is None:
        return _each(weights, q, target)
    return _sums(weights, q, target, source, len(k))


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, source: Tensor | None, target: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, source, target)
        return _scores(q, k, source, target)

    @staticmethod
    @first_gradient
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, source, target = ctx.saved_tensors
        d_q = d_k = None
        if ctx.needs_input_grad[0]:
            d_q = _sums(gradient, k, source, target, len(q))
        if ctx.needs_input_grad[1]:
            d_k = _to_sources(gradient, q, source, target, k)
        return d_q, d_k, None, None


class _Sums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weights: Tensor, v: Tensor, source: Tensor | None, target: Tensor, count: int
    ) -> Tensor:
        ctx.save_for_backward(weights, v, source, target)
        return _sums(weights, v, source, target, count)

    @staticmethod
    @first_gradient
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weights, v, source, target = ctx.saved_tensors
        d_weights = d_v = None
        if ctx.needs_input_grad[0]:
            d_weights = _scores(gradient, v, source, target)
        if ctx.needs_input_grad[1]:
            d_v = _to_sources(weights, gradient, source, target, v)
        return d_weights, d_v, None, None, None

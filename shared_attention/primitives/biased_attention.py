"""Softmax attention under an additive bias that learns, without stored scores on processors.

A bias that requires gradients keeps `scaled_dot_product_attention` off its fused CPU kernel. Its
forward pass does not need to know; the backward pass is written out here, some rows of one head
at a time.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from shared_attention.primitives.first_gradient import first_gradient

SCORES_AT_ONCE = 2**18
"""Scores in memory at a time for each core: a float32 megabyte."""
WORTHWHILE = 2**16
"""Scores per head from which this is faster than PyTorch's unfused operations."""


def can_learn_bias(q: Tensor, k: Tensor, bias: Tensor | None) -> bool:
    """Say whether `biased_attention` can serve and is worth it."""
    if bias is None or not bias.requires_grad or not torch.is_grad_enabled():
        return False
    if q.device.type != "cpu" or q.dtype not in (torch.float32, torch.float64):
        return False
    long = q.shape[2] * k.shape[2] >= WORTHWHILE
    return long and bias.dtype == q.dtype and not torch.compiler.is_compiling()


def biased_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float, rows: Tensor | None = None
) -> Tensor:
    """Return softmax(scale · q kᵀ + bias) v.

    Args:
        q: `[B, H, L, D]`.
        k: `[B, Hk, S, D]`, Hk dividing H.
        v: `[B, Hk, S, D]`.
        bias: `[B or 1, H or 1, L or 1, S or 1]`; -inf hides. With `rows`: `[R, S]`.
        scale: Score scale.
        rows: int64 `[B, H, L]`, the row of the bias that each query has; they are read a head at
            a time, so that neither they nor their gradients are all in memory.

    Returns:
        `[B, H, L, D]`; zero for queries that see no key.
    """
    return _Biased.apply(q, k, v, bias, scale, rows)


class _Biased(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor,
        scale: float,
        rows: Tensor | None,
    ) -> Tensor:
        given = q, k, v, bias
        q, k, v, bias = (x.detach() for x in given)
        if rows is None:
            mask = bias.expand(*bias.shape[:2], q.shape[2], k.shape[2])
            out = _fused(q, k, v, mask, scale)
        else:
            out = torch.empty_like(q, memory_format=torch.contiguous_format)
            mask, shared = bias.new_empty(q.shape[2], k.shape[2]), q.shape[1] // k.shape[1]
            for b, h in itertools.product(*map(range, q.shape[:2])):
                torch.index_select(bias, 0, rows[b, h], out=mask)
                at = (slice(b, b + 1), slice(h // shared, h // shared + 1))
                own = q[b : b + 1, h : h + 1]
                out[b, h] = _fused(own, k[at], v[at], mask[None, None], scale)[0, 0]
        ctx.save_for_backward(*given, out, rows)
        ctx.scale = scale
        return out

    @staticmethod
    @first_gradient
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bias, out, chosen = ctx.saved_tensors
        batch, heads, length, _ = q.shape
        count, shared, scale = k.shape[2], heads // k.shape[1], ctx.scale
        d_q = torch.empty_like(q, memory_format=torch.contiguous_format)
        d_k, d_v = (x.new_zeros(x.shape) for x in (k, v))
        d_bias = bias.new_zeros(bias.shape)
        inner = (d_out * out).sum(-1, keepdim=True)
        step = max(1, min(length, SCORES_AT_ONCE * torch.get_num_threads() // count))
        scores, grades = (q.new_empty(step, count) for _ in range(2))
        sums = k.new_empty(k.shape[2:])
        for h in range(heads):
            for rows in (slice(i, min(i + step, length)) for i in range(0, length, step)):
                for b in range(batch):
                    at, n = (b, h // shared), rows.stop - rows.start
                    tile, d_o, weights = q[b, h, rows], d_out[b, h, rows], scores[:n]
                    if chosen is None:
                        own, d_own = (x[b % len(x), h % x.shape[1]] for x in (bias, d_bias))
                        own, d_own = own[_part(own, rows)], d_own[_part(own, rows)]
                        torch.addmm(own, tile, k[at].T, alpha=scale, out=weights)
                    else:
                        torch.index_select(bias, 0, chosen[b, h, rows], out=weights)
                        weights.addmm_(tile, k[at].T, alpha=scale)
                    torch.softmax(weights, -1, out=weights)
                    if weights[:, 0].isnan().any():
                        if chosen is not None:
                            own = bias.index_select(0, chosen[b, h, rows])
                        weights.masked_fill_((own == -math.inf).all(-1, keepdim=True), 0)
                    d_scores = torch.mm(d_o, v[at].T, out=grades[:n])
                    d_scores.sub_(inner[b, h, rows]).mul_(weights)
                    if chosen is None:
                        d_own += d_scores.sum_to_size(d_own.shape)
                    else:
                        d_bias.index_add_(0, chosen[b, h, rows], d_scores)
                    torch.mm(d_scores, k[at], out=d_q[b, h, rows]).mul_(scale)
                    d_k[at] += torch.mm(d_scores.T, tile, out=sums).mul_(scale)
                    d_v[at] += torch.mm(weights.T, d_o, out=sums)
        return d_q, d_k, d_v, d_bias, None, None


def _fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
    grouped = k.shape[1] != q.shape[1]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=grouped)


def _part(bias: Tensor, rows: slice) -> slice:
    return rows if len(bias) > 1 else slice(None)

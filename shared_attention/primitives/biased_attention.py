"""Softmax attention under an additive bias that learns, without stored scores on processors.

A bias that requires gradients keeps `scaled_dot_product_attention` off its fused CPU kernel. Its
forward pass does not need to know; the backward pass is written out here, some rows of one head
at a time.
"""

from __future__ import annotations

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


def biased_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float) -> Tensor:
    """Return softmax(scale · q kᵀ + bias) v.

    Args:
        q: `[B, H, L, D]`.
        k: `[B, Hk, S, D]`, Hk dividing H.
        v: `[B, Hk, S, D]`.
        bias: `[B or 1, H or 1, L or 1, S or 1]`; -inf hides.
        scale: Score scale.

    Returns:
        `[B, H, L, D]`; zero for queries that see no key.
    """
    return _Biased.apply(q, k, v, bias, scale)


class _Biased(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(q, k, v, bias)
        ctx.scale = scale
        mask = bias.detach().expand(*bias.shape[:2], q.shape[2], k.shape[2])
        q, k, v = q.detach(), k.detach(), v.detach()
        grouped = k.shape[1] != q.shape[1]
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, scale=scale, enable_gqa=grouped
        )

    @staticmethod
    @first_gradient
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bias = ctx.saved_tensors
        batch, heads, length, _ = q.shape
        count, shared, scale = k.shape[2], heads // k.shape[1], ctx.scale
        d_q = torch.empty_like(q, memory_format=torch.contiguous_format)
        d_k, d_v = (x.new_zeros(x.shape) for x in (k, v))
        d_bias = bias.new_zeros(bias.shape)
        step = max(1, min(length, SCORES_AT_ONCE * torch.get_num_threads() // count))
        scores, grades = (q.new_empty(step, count) for _ in range(2))
        sums = k.new_empty(k.shape[2:])
        for h in range(heads):
            for rows in (slice(i, min(i + step, length)) for i in range(0, length, step)):
                for b in range(batch):
                    at = (b, h // shared)
                    n = rows.stop - rows.start
                    own = bias[b % len(bias), h % bias.shape[1]]
                    own, d_own = own[_part(own, rows)], d_bias[b % len(bias), h % bias.shape[1]]
                    tile, d_o = q[b, h, rows], d_out[b, h, rows]
                    weights = torch.addmm(own, tile, k[at].T, alpha=scale, out=scores[:n])
                    torch.softmax(weights, -1, out=weights)
                    if weights[:, 0].isnan().any():
                        hidden = (own == -math.inf).all(-1, keepdim=True)
                        weights.masked_fill_(hidden, 0)
                    d_weights = torch.mm(d_o, v[at].T, out=grades[:n])
                    d_scores = torch._softmax_backward_data(d_weights, weights, -1, q.dtype)
                    part = d_own[_part(d_own, rows)]
                    part += d_scores.sum_to_size(part.shape)
                    torch.mm(d_scores, k[at], out=d_q[b, h, rows]).mul_(scale)
                    d_k[at] += torch.mm(d_scores.T, tile, out=sums).mul_(scale)
                    d_v[at] += torch.mm(weights.T, d_o, out=sums)
        return d_q, d_k, d_v, d_bias, None


def _part(bias: Tensor, rows: slice) -> slice:
    return rows if len(bias) > 1 else slice(None)

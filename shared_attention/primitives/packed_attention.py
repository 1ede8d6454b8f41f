"""Softmax attention of many short sequences under a few additive biases that learn.

A bias that requires gradients keeps `scaled_dot_product_attention` off its fused CPU kernel: it
falls back to plain operations that store and copy every score several times. For sequences as
short as windows of an image, batched products that stay in the cache are no slower than that
kernel on one core and a third faster on two.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from shared_attention.primitives.first_gradient import first_gradient

SCORES_AT_ONCE = 2**17
"""Scores in memory at a time for each core: half a float32 megabyte stays in its cache."""
SHORT = 160
"""Length up to which batched products are at least as fast as the fused kernel on CPU."""


def packed_attention(qkv: Tensor, biases: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """Return softmax(q kᵀ / √d + bias) v for `sizes[g]` sequences under `biases[g]`, in turn.

    On CPU the backward pass recomputes the scores, some sequences at a time, so none are kept.

    Args:
        qkv: Queries, keys and values `[W, n, 3, H, d]`.
        biases: G of `[H, n, n]`, the same type as `qkv`; -inf hides, but never a whole row.
        sizes: G numbers of sequences that add up to W.

    Returns:
        `[W, n, H * d]`.
    """
    single = qkv.dtype in (torch.float32, torch.float64)
    if qkv.device.type != "cpu" or not single or torch.compiler.is_compiling():
        return _fused(qkv, biases, sizes)
    if torch.is_grad_enabled() and any(x.requires_grad for x in (qkv, *biases)):
        return _Attend.apply(qkv, sizes, *biases)
    return _attend(qkv, biases, sizes)


def _fused(qkv: Tensor, biases: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    outs = []
    for part, bias in zip(qkv.split(list(sizes)), biases, strict=True):
        q, k, v = part.transpose(1, 3).unbind(2)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])
        outs.append(out.transpose(1, 2).flatten(2))
    return outs[0] if len(outs) == 1 else torch.cat(outs)


def _attend(qkv: Tensor, biases: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    count, length, _, heads, width = qkv.shape
    if length > SHORT:
        return _fused(qkv, biases, sizes)
    out = qkv.new_empty(count, length, heads, width)
    for _, part, bias in _parts(biases, sizes):
        q, k, v = _heads(qkv[part])
        mixed = torch.bmm(_weights(q, k, bias), v)
        out[part] = mixed.unflatten(0, (-1, heads)).transpose(1, 2)
    return out.flatten(2)


def _weights(q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
    return torch.baddbmm(bias, q, k.mT, alpha=1 / math.sqrt(q.shape[-1])).softmax(-1)


def _parts(biases: Sequence[Tensor], sizes: Sequence[int]) -> Iterator[tuple[int, slice, Tensor]]:
    """Yield the group, some of its sequences and their bias `[sequences * H, n, n]` at a time."""
    start = 0
    for group, (size, bias) in enumerate(zip(sizes, biases, strict=True)):
        step = max(1, min(size, SCORES_AT_ONCE * torch.get_num_threads() // bias.numel()))
        repeated = bias.repeat(step, 1, 1) if step > 1 else bias
        for at in range(start, start + size, step):
            stop = min(at + step, start + size)
            yield group, slice(at, stop), repeated[: (stop - at) * len(bias)]
        start += size


def _heads(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Lay `[W, n, 3, H, d]` out as three `[W * H, n, d]`."""
    q, k, v = x.permute(2, 0, 3, 1, 4).reshape(3, -1, x.shape[1], x.shape[4]).unbind(0)
    return q, k, v


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, sizes: Sequence[int], *biases: Tensor) -> Tensor:
        out = _attend(qkv, biases, sizes)
        ctx.save_for_backward(qkv, out, *biases)
        ctx.sizes = sizes
        return out

    @staticmethod
    @first_gradient
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        qkv, out, *biases = ctx.saved_tensors
        _, length, _, heads, width = qkv.shape
        scale = 1 / math.sqrt(width)
        d_qkv, d_biases = torch.empty_like(qkv), [torch.zeros_like(bias) for bias in biases]
        d_out = d_out.unflatten(2, (heads, width))
        inner = (d_out * out.view_as(d_out)).sum(-1).transpose(1, 2)
        for group, part, bias in _parts(biases, ctx.sizes):
            q, k, v = _heads(qkv[part])
            d_o = d_out[part].transpose(1, 2).reshape(-1, length, width)
            weights = _weights(q, k, bias)
            d_v = torch.bmm(weights.mT, d_o)
            d_scores = torch.bmm(d_o, v.mT)
            d_scores.sub_(inner[part].reshape(-1, length, 1)).mul_(weights)
            d_biases[group] += d_scores.unflatten(0, (-1, heads)).sum(0)
            d_q, d_k = torch.bmm(d_scores, k), torch.bmm(d_scores.mT, q)
            for i, gradient in enumerate((d_q.mul_(scale), d_k.mul_(scale), d_v)):
                d_qkv[part, :, i] = gradient.unflatten(0, (-1, heads)).transpose(1, 2)
        return d_qkv, None, *d_biases

"""Softmax attention of many short sequences under a few additive biases that learn.

A bias that requires gradients keeps `scaled_dot_product_attention` off its fused CPU kernel: it
falls back to plain operations that store and copy every score several times.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

SCORES_AT_ONCE = 2**17
"""Scores in memory at a time: half a float32 megabyte stays in the cache of one core."""


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
    learns = torch.is_grad_enabled() and any(bias.requires_grad for bias in biases)
    single = qkv.dtype in (torch.float32, torch.float64)
    if learns and single and qkv.device.type == "cpu" and not torch.compiler.is_compiling():
        return _Attend.apply(qkv, sizes, *biases)
    return _fused(qkv, biases, sizes)


def _fused(qkv: Tensor, biases: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    outs = []
    for part, bias in zip(qkv.split(list(sizes)), biases, strict=True):
        q, k, v = part.transpose(1, 3).unbind(2)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])
        outs.append(out.transpose(1, 2).flatten(2))
    return outs[0] if len(outs) == 1 else torch.cat(outs)


def _parts(biases: Sequence[Tensor], sizes: Sequence[int]) -> Iterator[tuple[int, slice, Tensor]]:
    """Yield the group, some of its sequences and their bias `[sequences * H, n, n]` at a time."""
    start = 0
    for group, (size, bias) in enumerate(zip(sizes, biases, strict=True)):
        step = max(1, min(size, SCORES_AT_ONCE // bias.numel()))
        repeated = bias.repeat(step, 1, 1) if step > 1 else bias
        for at in range(start, start + size, step):
            stop = min(at + step, start + size)
            yield group, slice(at, stop), repeated[: (stop - at) * len(bias)]
        start += size


def _heads(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Lay `[W, n, 3, H, d]` out as three `[W * H, n, d]`."""
    return x.permute(2, 0, 3, 1, 4).reshape(3, -1, x.shape[1], x.shape[4]).unbind(0)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, sizes: Sequence[int], *biases: Tensor) -> Tensor:
        qkv, biases = qkv.detach(), tuple(bias.detach() for bias in biases)
        out = _fused(qkv, biases, sizes)
        ctx.save_for_backward(qkv, out, *biases)
        ctx.sizes = sizes
        return out

    @staticmethod
    @once_differentiable
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
            weights = torch.baddbmm(bias, q, k.mT, alpha=scale).softmax(-1)
            d_v = torch.bmm(weights.mT, d_o)
            d_scores = torch.bmm(d_o, v.mT)
            d_scores.sub_(inner[part].reshape(-1, length, 1)).mul_(weights)
            d_biases[group] += d_scores.unflatten(0, (-1, heads)).sum(0)
            d_q, d_k = torch.bmm(d_scores, k), torch.bmm(d_scores.mT, q)
            for i, gradient in enumerate((d_q.mul_(scale), d_k.mul_(scale), d_v)):
                d_qkv[part, :, i] = gradient.unflatten(0, (-1, heads)).transpose(1, 2)
        return d_qkv, None, *d_biases

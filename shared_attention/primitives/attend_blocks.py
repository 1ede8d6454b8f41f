"""Attention with any normaliser, some rows of scores at a time: no L x S matrix is kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from shared_attention.masks import Mask, split
from shared_attention.primitives.attend import Normaliser, attend
from shared_attention.primitives.first_gradient import first_gradient
from shared_attention.primitives.heads import expand_heads
from shared_attention.primitives.hidden import blank_hidden

BLOCK_SCORES = {"cpu": 2**18, "cuda": 2**26}
"""Scores at a time: on processors what stays in the cache of each thread, elsewhere what fills
the device."""


def attend_blocks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
    normaliser: Normaliser,
) -> Tensor:
    """Attend as `attend` does, with O(L) memory and, on processors, scores that stay in cache.

    The backward pass computes each block of scores again. Keys after the last row of a causal
    block are skipped. Half-precision inputs are computed in float32. Under `torch.compile` and
    `torch.export` it is `attend`, whose graph the compiler fuses itself.

    Args:
        q: `[B, H, L, Dk]`.
        k: `[B, Hk, S, Dk]`, Hk dividing H.
        v: `[B, Hv, S, Dv]`, Hv dividing H.
        mask: Any mask.
        bias: Additive, broadcastable to `[B, H, L, S]`; gradients flow to it.
        scale: Defaults to 1 / sqrt(Dk).
        normaliser: Differentiable function of the scores of a block of rows, and of nothing else
            that needs gradients. It sees -inf where keys are hidden, and fewer keys than S where
            all of the others are, but never none.

    Returns:
        `[B, H, L, Dv]`.
    """
    heads, dtype = q.shape[1], q.dtype
    wide = torch.promote_types(dtype, torch.float32)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    parts = split(mask)
    structured = parts.window is None and parts.keys is None and parts.rest is None
    allowed = None
    if mask is not None and not (structured and parts.causal):
        allowed = mask.to_dense(q.shape[2], k.shape[2], q.device)
        k, v = blank_hidden(k, v, allowed)
    q, k, v = (expand_heads(x, heads).to(wide) for x in (q, k, v))
    bias = None if bias is None else bias.to(wide)[(None,) * (4 - bias.dim())]
    if torch.compiler.is_compiling():
        if allowed is None and parts.causal and mask is not None:
            allowed = mask.to_dense(q.shape[2], k.shape[2], q.device)
        out = attend(q, k, v, mask=allowed, bias=bias, scale=scale, normaliser=normaliser)[0]
        return out.to(dtype)
    how = _How(allowed, parts.causal, scale, normaliser)
    return _Blocks.apply(q, k, v, bias, how).to(dtype)


class _How(NamedTuple):
    allowed: Tensor | None
    causal: bool
    scale: float
    normaliser: Callable[[Tensor], Tensor]


class _Block(NamedTuple):
    """Samples, heads and rows that are computed at once, and the first keys they see."""

    samples: slice
    heads: slice
    rows: slice
    keys: slice
    reach: int
    """Keys that the first row sees at most."""

    def of(self, x: Tensor) -> Tensor:
        """Take the part of `[B or 1, H or 1, L or 1, S or 1]` that belongs to this block."""
        index = (self.samples, self.heads, self.rows, self.keys)
        return x[tuple(slice(None) if n == 1 else i for i, n in zip(index, x.shape, strict=True))]


def _blocks(q: Tensor, k: Tensor, causal: bool) -> Iterator[_Block]:
    batch, heads, length, _ = q.shape
    count = k.shape[2]
    budget = BLOCK_SCORES.get(q.device.type, BLOCK_SCORES["cuda"])
    if q.device.type == "cpu":
        budget *= torch.get_num_threads()
    rows = max(min(length, budget // max(count, 1)), 1)
    together = max(min(heads, budget // max(rows * count, 1)), 1)
    samples = max(min(batch, budget // max(together * rows * count, 1)), 1)
    for b in range(0, batch, samples):
        for h in range(0, heads, together):
            for i in range(0, length, rows):
                last = min(i + rows, length)
                reach = i + 1 + count - length
                seen = max(last + count - length, 0) if causal else count
                if seen:
                    where = slice(b, b + samples), slice(h, h + together), slice(i, last)
                    yield _Block(*where, slice(0, seen), reach)


class _Blocks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, how: _How
    ) -> Tensor:
        out = q.new_zeros(*q.shape[:3], v.shape[-1])
        for block in _blocks(q, k, how.causal):
            scores = _scores(block, q, k, bias, how)
            own = (block.samples, block.heads)
            out[*own, block.rows] = how.normaliser(scores) @ v[*own, block.keys]
        ctx.save_for_backward(q, k, v, bias)
        ctx.how = how
        return out

    @staticmethod
    @first_gradient
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bias = ctx.saved_tensors
        how: _How = ctx.how
        (grad,) = grads
        for_q, for_k, for_v = (torch.zeros_like(x) for x in (q, k, v))
        for_bias = torch.zeros_like(bias) if ctx.needs_input_grad[3] else None
        for block in _blocks(q, k, how.causal):
            own = (block.samples, block.heads)
            rows, keys = (*own, block.rows), (*own, block.keys)
            scores = _scores(block, q, k, bias, how).requires_grad_()
            with torch.enable_grad():
                weights = how.normaliser(scores)
            for_v[*keys] += weights.detach().mT @ grad[*rows]
            (for_scores,) = torch.autograd.grad(weights, scores, grad[*rows] @ v[*keys].mT)
            for_q[*rows] = (for_scores @ k[*keys]) * how.scale
            for_k[*keys] += for_scores.mT @ (q[*rows] * how.scale)
            if for_bias is not None:
                part = block.of(for_bias)
                part += for_scores.sum_to_size(part.shape)
        return for_q, for_k, for_v, for_bias, None


def _scores(block: _Block, q: Tensor, k: Tensor, bias: Tensor | None, how: _How) -> Tensor:
    """Scores of a block, -inf where hidden."""
    own = (block.samples, block.heads)
    scores = (q[*own, block.rows] * how.scale) @ k[*own, block.keys].mT
    if bias is not None:
        scores += block.of(bias)
    if how.allowed is not None:
        scores.masked_fill_(~block.of(how.allowed), -math.inf)
    elif how.causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device)
        scores.masked_fill_(hidden.triu_(block.reach), -math.inf)
    return scores

"""Softmax attention within groups of rows, some groups at a time.

Scores between groups are never computed. The backward pass is written out, some groups at a time
too; of the scores only the weights are kept.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from shared_attention.primitives.first_gradient import first_gradient
from shared_attention.primitives.group_pieces import (
    HIDING,
    Block,
    Buffer,
    Groups,
    Piece,
    pieces,
    read,
)


def can_group(q: Tensor) -> bool:
    """Say whether `attend_groups` can serve: float32 or float64 on a processor, not compiled."""
    single = q.dtype in (torch.float32, torch.float64)
    return q.device.type == "cpu" and single and not torch.compiler.is_compiling()


def attend_groups(
    q: Tensor, k: Tensor, v: Tensor, groups: Groups, gain: Tensor | None = None
) -> Tensor:
    """Attend with softmax(q kᵀ / √D) v from the listed queries to the keys that each sees.

    Args:
        q: `[R, Dk]`.
        k: `[R', Dk]`.
        v: `[R', Dv]`.
        groups: Rows may be named more than once: outputs and gradients add up.
        gain: `[M]`, what the output of each listed query is multiplied by; no gradient flows to
            it. Outputs of queries that see no key mean nothing and need a gain of zero.

    Returns:
        `[R, Dv]`; zero where a row is not listed.
    """
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
        return _Attend.apply(q, k, v, groups, gain)
    return _attend(q, k, v, groups, gain, None)


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    groups: Groups,
    gain: Tensor | None,
    kept: list[Tensor] | None,
) -> Tensor:
    """Attend, and add the weights of each block to `kept`."""
    out = v.new_zeros(len(q), v.shape[1])
    tiles, mixed = Buffer(q), Buffer(q)
    memory = Buffer(q) if kept is None else q.new_empty
    for piece in pieces(k, v, groups, gain):
        for block in piece.blocks(q, groups, tiles):
            weights = _weights(piece, block, groups, memory)
            shape = (*block.q.shape[:2], v.shape[1])
            if kept is not None:
                kept.append(weights)
            found = torch.bmm(weights, block.v, out=mixed(*shape))
            out.index_add_(0, block.rows, found.mul_(block.gain).flatten(0, 1))
    return out


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, groups: Groups, gain: Tensor | None
    ) -> Tensor:
        ctx.groups, ctx.gain = groups, gain
        kept: list[Tensor] = []
        out = _attend(q, k, v, groups, gain, kept)
        ctx.save_for_backward(q, k, v, *kept)
        return out

    @staticmethod
    @first_gradient
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *kept = ctx.saved_tensors
        every = iter(kept)
        d_q, d_k, d_v = _zeros(q, k, v)
        d_out = d_out.contiguous()
        tiles, grades, outer, near, total_k, total_v = (Buffer(q) for _ in range(6))
        for piece in pieces(k, v, ctx.groups, ctx.gain):
            sums = total_k(*piece.k.shape).zero_(), total_v(*piece.v.shape).zero_()
            for block in piece.blocks(q, ctx.groups, tiles):
                d_o = read(d_out, block.rows, outer(*block.q.shape[:2], v.shape[1]))
                d_o.mul_(block.gain)
                weights = next(every)
                d_scores = torch.bmm(d_o, block.v.mT, out=grades(*weights.shape))
                d_scores.mul_(weights)
                d_scores.addcmul_(weights, d_scores.sum(-1, keepdim=True), value=-1)
                for total, left, right in ((sums[0], d_scores, block.q), (sums[1], weights, d_o)):
                    shape = (left.shape[0], left.shape[2], right.shape[2])
                    total[:, block.span] += torch.bmm(left.mT, right, out=near(*shape))
                d_rows = torch.bmm(d_scores, block.k, out=outer(*block.q.shape))
                d_rows.mul_(1 / math.sqrt(q.shape[1]))
                d_q.index_add_(0, block.rows, d_rows.flatten(0, 1))
            for d_x, total in zip((d_k, d_v), sums, strict=True):
                d_x.index_add_(0, piece.rows.flatten(), total.flatten(0, 1))
        return d_q, d_k, d_v, None, None


def _weights(piece: Piece, block: Block, groups: Groups, memory: Callable[..., Tensor]) -> Tensor:
    """Softmax of the scores of a block, `[n, b, span]`."""
    count, size, _ = block.q.shape
    span = block.k.shape[1]
    scores = torch.bmm(block.q, block.k.mT, out=memory(count, size, span))
    left, right = groups.window or (span, span)
    if block.own + size - 1 > left or span - 1 > block.own + right:
        scores.sub_(_outside(size, span, block.own, left, right, scores.dtype))
    if piece.padding is not None:
        scores.sub_(piece.padding[:, :, block.span])
    if piece.positions is not None and groups.positions is not None:
        position = groups.positions[0][block.places][..., None].to(scores.dtype)
        later = (piece.positions[:, :, block.span] - position).clamp_(min=0)
        scores.sub_(later, alpha=HIDING)
    return torch.softmax(scores, -1, out=scores)


@functools.lru_cache(maxsize=64)
def _outside(size: int, span: int, own: int, left: int, right: int, dtype: torch.dtype) -> Tensor:
    step = torch.arange(span) - torch.arange(own, own + size)[:, None]
    return ((step < -left) | (step > right)).to(dtype) * HIDING


def _zeros(*tensors: Tensor) -> Sequence[Tensor]:
    """Return zeros of these shapes, in one piece of memory: allocators keep large ones longer."""
    sizes = [x.numel() for x in tensors]
    parts = tensors[0].new_zeros(sum(sizes)).split(sizes)
    return [part.view(x.shape) for part, x in zip(parts, tensors, strict=True)]

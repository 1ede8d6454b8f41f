"""Ring attention: softmax attention over a sequence whose parts lie in several processes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from shared_attention import masks
from shared_attention.errors import UnsupportedError
from shared_attention.inputs import check_inputs
from shared_attention.masks import Mask
from shared_attention.primitives.attend import attend, log_sum_exp, scores_of
from shared_attention.primitives.first_gradient import first_gradient
from shared_attention.primitives.heads import expand_heads
from shared_attention.primitives.merge import merge


def ring_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None = None,
    scale: float | None = None,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Attend from this process's part of the queries to all keys; exact, forward and backward.

    Process r holds positions r·L to (r+1)·L - 1. Keys and values travel round the ring of
    processes; each attends to the part that is passing, and results are merged by their
    log-sum-exp, so no process ever holds more than two parts of the keys. In the backward pass the
    gradients of a part travel with it until it is home. Under a causal mask the parts that lie
    ahead are passed on without being read.

    Every process of the group has to call this, in the backward pass too.

    Args:
        q: `[B, H, L, Dk]`, the same shape in every process.
        k: `[B, Hk, L, Dk]`, Hk dividing H.
        v: `[B, Hv, L, Dv]`, Hv dividing H.
        mask: None or `masks.causal()`.
        scale: Defaults to 1 / sqrt(Dk).
        group: The processes, in the order of the sequence; all of them by default.

    Returns:
        `[B, H, L, Dv]`.

    Raises:
        ValueError: The tensors do not fit together.
        UnsupportedError: The mask is of another kind.

    Source: Liu et al., Ring Attention with Blockwise Transformers, ICLR 2024 (arXiv:2310.01889).
    """
    parts = check_inputs(q, k, v, mask).parts
    if parts.window is not None or parts.keys is not None or parts.rest is not None:
        raise UnsupportedError("ring_attention: mask got another kind, expected masks.causal()")
    if q.shape[2] != k.shape[2]:
        raise ValueError(
            f"ring_attention: got {q.shape[2]} queries and {k.shape[2]} keys, "
            "expected the same part of the sequence"
        )
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    return _Ring.apply(q, k, v, parts.causal, scale, group)


class _Ring(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        causal: bool,
        scale: float,
        group: dist.ProcessGroup | None,
    ) -> Tensor:
        wide = torch.promote_types(q.dtype, torch.float32)
        own, count = dist.get_rank(group), dist.get_world_size(group)
        out = q.new_zeros(*q.shape[:3], v.shape[-1], dtype=wide)
        lse = out.new_full(q.shape[:3], -math.inf)
        passing = [k.contiguous(), v.contiguous()]
        for step in range(count):
            arriving = None if step == count - 1 else _Passing(passing, group)
            home = (own - step) % count
            if not causal or home <= own:
                mask = _mask(q, causal and home == own)
                given = (x.to(wide) for x in (q, *passing))
                seen, _, scores = attend(*given, mask=mask, scale=scale)
                out, lse = merge(out, lse, seen, log_sum_exp(scores))
            if arriving is not None:
                passing = arriving.wait()
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.causal, ctx.scale, ctx.group = causal, scale, group
        return out.to(q.dtype)

    @staticmethod
    @first_gradient
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        own, count = dist.get_rank(ctx.group), dist.get_world_size(ctx.group)
        queries, d_out = q.to(out.dtype), d_out.to(out.dtype)
        inner = (d_out * out).sum(-1, keepdim=True)
        d_q = torch.zeros_like(queries)
        passing = [k.contiguous(), v.contiguous()]
        grads = [torch.zeros_like(x, dtype=out.dtype) for x in passing]
        for step in range(count):
            home = (own - step) % count
            if not ctx.causal or home <= own:
                mask = _mask(q, ctx.causal and home == own)
                keys, values = (expand_heads(x.to(out.dtype), q.shape[1]) for x in passing)
                scores = scores_of(queries, keys, mask=mask, bias=None, scale=ctx.scale)
                weights = (scores - lse[..., None]).exp()
                d_scores = weights * (d_out @ values.mT - inner) * ctx.scale
                d_q += d_scores @ keys
                grads[0] += _fewer(d_scores.mT @ queries, k.shape[1])
                grads[1] += _fewer(weights.mT @ d_out, v.shape[1])
            *passing, d_k, d_v = _Passing([*passing, *grads], ctx.group).wait()
            grads = [d_k, d_v]
        return (d_q.to(q.dtype), grads[0].to(k.dtype), grads[1].to(v.dtype), None, None, None)


class _Passing:
    """Tensors on their way to the next process, and those of the previous one."""

    def __init__(self, tensors: Sequence[Tensor], group: dist.ProcessGroup | None) -> None:
        own, count = dist.get_rank(group), dist.get_world_size(group)
        self.arrived = [torch.empty_like(x) for x in tensors]
        self.sent = tensors
        following, previous = ((own + step) % count for step in (1, -1))
        if group is not None:
            following, previous = (dist.get_global_rank(group, r) for r in (following, previous))
        moves = [dist.P2POp(dist.isend, x, following, group) for x in tensors]
        moves += [dist.P2POp(dist.irecv, x, previous, group) for x in self.arrived]
        self.works = dist.batch_isend_irecv(moves) if count > 1 else []
        if count == 1:
            self.arrived = list(tensors)

    def wait(self) -> list[Tensor]:
        """Return what arrived."""
        for work in self.works:
            work.wait()
        return self.arrived


def _mask(q: Tensor, causal: bool) -> Tensor | None:
    return masks.causal().to_dense(q.shape[2], q.shape[2], q.device) if causal else None


def _fewer(gradient: Tensor, heads: int) -> Tensor:
    """Add up the gradients of query heads that share a key head."""
    return gradient.unflatten(1, (heads, -1)).sum(2)

"""Attention of blocks of queries to lists of key blocks."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from shared_attention.primitives.first_gradient import first_gradient

PIECE = 2**18
"""Numbers of keys that are read at once, per thread of the processor."""
WHOLE = 2**20
"""Numbers of keys up to which everything is read at once, and kept for gradients."""


def attend_blocks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    ids: Tensor,
    used: Tensor,
    *,
    real: Tensor,
    causal: bool,
    block: int,
    scale: float,
    own: Tensor | None = None,
) -> Tensor:
    """Attend from each block of queries to its own list of key blocks, in one softmax.

    On processors some query blocks are computed at a time, in buffers that stay in the cache,
    and again for gradients, so that memory does not grow with the keys read.

    Args:
        q: `[B, H, L, D]`, L a multiple of `block`.
        k: `[B, H, S, D]`, S a multiple of `block`.
        v: `[B, H, S, Dv]`.
        ids: Key blocks of each query block, int64 `[B, H, L / block, n]`.
        used: Which of them count, bool of the same shape.
        real: How many keys are real, the first ones, `[B]`.
        causal: Whether keys after the query are hidden.
        block: Positions per block.
        scale: Score scale.
        own: Numbers of the query blocks in the sequence `[B, L / block]`; from 0 by default.

    Returns:
        `[B, H, L, Dv]`; zero for queries that see no key.
    """
    batch, heads, length, _ = q.shape
    asking, ids = length // block, ids.flatten(0, 1)
    first = torch.arange(batch * heads, device=q.device)[:, None, None] * (k.shape[2] // block)
    if own is None:
        own = torch.arange(asking, device=q.device).expand(batch, -1)
    how = _How(
        ids=ids.flatten(0, 1),
        rows=(ids + first).flatten(0, 1),
        used=used.flatten(0, 2),
        real=real.repeat_interleave(heads * asking),
        own=own.repeat_interleave(heads, dim=0).flatten(),
        causal=causal,
        scale=scale,
    )
    q, k, v = (x.flatten(0, 1).unflatten(1, (-1, block)).flatten(0, 1) for x in (q, k, v))
    few = how.ids.numel() * block * max(q.shape[2], v.shape[2]) <= WHOLE
    if few or q.device.type != "cpu" or torch.compiler.is_compiling():
        out = _attend(q, _fetch(k, how.rows), _fetch(v, how.rows), how)
    else:
        out = _Pieces.apply(q, k, v, how)
    return out.reshape(batch, heads, length, -1)


class _How(NamedTuple):
    """What each of N blocks of queries attends to."""

    ids: Tensor
    """Key blocks by their place in their own sequence, `[N, n]`."""
    rows: Tensor
    """Key blocks by their place among all N, `[N, n]`."""
    used: Tensor
    """bool `[N, n]`."""
    real: Tensor
    """`[N]`."""
    own: Tensor
    """Place of the queries in their sequence, `[N]`."""
    causal: bool
    scale: float

    def of(self, part: slice) -> _How:
        return self._replace(
            ids=self.ids[part],
            rows=self.rows[part],
            used=self.used[part],
            real=self.real[part],
            own=self.own[part],
        )


def _fetch(x: Tensor, rows: Tensor) -> Tensor:
    """Read blocks `rows [N, n]` of `x [M, b, D]` side by side, `[N, n * b, D]`."""
    found = x.flatten(1).index_select(0, rows.flatten())
    return found.view(len(rows), -1, x.shape[2])


def _attend(q: Tensor, k: Tensor, v: Tensor, how: _How) -> Tensor:
    """Attend from blocks `q [N, b, D]` to the keys fetched for each, `[N, n * b, D]`."""
    block = q.shape[1]
    inside = torch.arange(block, device=q.device)
    key = how.ids[..., None] * block + inside
    seen = (how.used[..., None] & (key < how.real[:, None, None])).flatten(1)[:, None]
    if how.causal:
        query = how.own[:, None] * block + inside
        seen = seen & (key.flatten(1)[:, None] <= query[..., None])
    added = (1 - seen.to(q.dtype).reciprocal())[:, None].expand(-1, -1, block, -1)
    q, k, v = (x[:, None] for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=added, scale=how.scale)[:, 0]


class _Pieces(torch.autograd.Function):
    """Some query blocks at a time, and the same again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, how: _How) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.how = how
        outs = []
        for part in _parts(q, v, how):
            own = how.of(part)
            outs.append(_attend(q[part], _fetch(k, own.rows), _fetch(v, own.rows), own))
        return torch.cat(outs)

    @staticmethod
    @first_gradient
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v = ctx.saved_tensors
        how: _How = ctx.how
        for_q, for_k, for_v = (x.new_zeros(x.shape) for x in (q, k, v))
        for part in _parts(q, v, how):
            own = how.of(part)
            near_q, near_k, near_v = (
                x.detach().requires_grad_()
                for x in (q[part], _fetch(k, own.rows), _fetch(v, own.rows))
            )
            with torch.enable_grad():
                out = _attend(near_q, near_k, near_v, own)
            leaves = (near_q, near_k, near_v)
            for_q[part], *found = torch.autograd.grad(out, leaves, gradients[0][part])
            for total, x in zip((for_k, for_v), found, strict=True):
                rows = own.rows.flatten()
                total.flatten(1).index_add_(0, rows, x.reshape(len(rows), -1))
        return for_q, for_k, for_v, None


def _parts(q: Tensor, v: Tensor, how: _How) -> list[slice]:
    """Query blocks that are computed together."""
    count = q.shape[1] * how.ids.shape[1] * max(q.shape[2], v.shape[2], q.shape[1])
    step = max(PIECE * torch.get_num_threads() // max(count, 1), 1)
    return [slice(i, i + step) for i in range(0, len(q), step)]

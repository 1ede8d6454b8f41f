"""Attention one query at a time in float64: the rows that a query sees, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from shared_attention.masks import Mask

Weigh = Callable[[Tensor, tuple[int, int, int]], Tensor]
"""Maps the scores `[n]` of the keys that a query sees, and its (sample, head, position), to
weights `[n]`."""


def reference_rows(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    weigh: Weigh,
    *,
    mask: Mask | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Return `[B, H, L, Dv]` in float64; hidden keys are dropped, not masked.

    Args:
        q: `[B, H, L, Dk]`.
        k: `[B, Hk, S, Dk]`, Hk dividing H.
        v: `[B, Hv, S, Dv]`, Hv dividing H.
        weigh: Turns the scores of one row into weights.
        mask: Any mask.
        bias: Additive, broadcastable to `[B, H, L, S]`.
        scale: Defaults to 1 / sqrt(Dk).
    """
    batch, heads, length, width = q.shape
    shape = (batch, heads, length, k.shape[2])
    q, k, v = q.double(), k.double(), v.double()
    scale = 1 / math.sqrt(width) if scale is None else scale
    allowed = torch.ones(shape, dtype=torch.bool)
    if mask is not None:
        allowed = mask.to_dense(length, k.shape[2]).expand(shape)
    added = None if bias is None else bias.double().expand(shape)
    rows = []
    for b in range(batch):
        for h in range(heads):
            key, value = k[b, h * k.shape[1] // heads], v[b, h * v.shape[1] // heads]
            for i in range(length):
                seen = allowed[b, h, i].nonzero()[:, 0]
                if not len(seen):
                    rows.append(v.new_zeros(v.shape[-1]))
                    continue
                scores = scale * (key[seen] @ q[b, h, i])
                if added is not None:
                    scores = scores + added[b, h, i, seen]
                rows.append(weigh(scores, (b, h, i)) @ value[seen])
    return torch.stack(rows).reshape(batch, heads, length, -1)

"""Softmax and window attention, one query at a time in float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from shared_attention.masks import Mask, causal, split, window


def reference_softmax(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Return softmax attention `[B, H, L, Dv]` in float64, reading only the keys a query sees."""
    batch, heads, length, width = q.shape
    count = k.shape[2]
    q, k, v = q.double(), k.double(), v.double()
    scale = 1 / math.sqrt(width) if scale is None else scale
    shape = (batch, heads, length, count)
    allowed = torch.ones(shape, dtype=torch.bool, device=q.device)
    if mask is not None:
        allowed = mask.to_dense(length, count, q.device).expand(shape)
    added = None if bias is None else bias.double().expand(shape)
    rows = []
    for b in range(batch):
        for h in range(heads):
            key = k[b, h * k.shape[1] // heads]
            value = v[b, h * v.shape[1] // heads]
            for i in range(length):
                seen = allowed[b, h, i]
                if not seen.any():
                    rows.append(v.new_zeros(v.shape[-1]))
                    continue
                scores = scale * (key[seen] * q[b, h, i]).sum(-1)
                if added is not None:
                    scores = scores + added[b, h, i][seen]
                weights = (scores - scores.max()).exp()
                rows.append((weights[:, None] * value[seen]).sum(0) / weights.sum())
    return torch.stack(rows).reshape(batch, heads, length, -1)


def reference_window(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None = None,
    scale: float | None = None,
    left: int = 64,
    right: int = 64,
) -> Tensor:
    """Return window attention `[B, H, L, Dv]` in float64 as masked softmax attention."""
    band = window(left, right)
    if split(mask).causal:
        band = band & causal()
    return reference_softmax(q, k, v, mask=band if mask is None else band & mask, scale=scale)

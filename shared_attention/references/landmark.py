"""Landmark attention, one query at a time, as the two softmaxes of the paper."""

from __future__ import annotations

import torch
from torch import Tensor

from shared_attention.masks import Mask, split


def reference_landmark(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None = None,
    scale: float | None = None,
    block: int = 64,
    top_k: int | None = None,
) -> Tensor:
    """Return landmark attention `[B, H, L, Dv]` in float64, dropping padded positions."""
    batch, heads, length, width = q.shape
    scale = width**-0.5 if scale is None else scale
    q, k, v = q.double() * scale, k.double(), v.double()
    parts = split(mask)
    rows = []
    for b in range(batch):
        real = [True] * length if parts.keys is None else parts.keys[b].tolist()
        kept = [j for j in range(length) if real[j]]
        for h in range(heads):
            key = k[b, h * k.shape[1] // heads][kept]
            value = v[b, h * v.shape[1] // heads][kept]
            for i in range(length):
                place = sum(real[: i + 1]) - 1
                rows.append(_row(q[b, h, i], key, value, place, parts.causal, block, top_k))
    return torch.stack(rows).view(batch, heads, length, -1)


def _row(
    q: Tensor, k: Tensor, v: Tensor, place: int, causal: bool, block: int, top_k: int | None
) -> Tensor:
    """One query at `place` among the real keys `k [S, D]`."""
    count = len(k)
    if count == 0 or (causal and place < 0):
        return v.new_zeros(v.shape[-1])
    own = max(place, 0) // block
    end = place + 1 if causal else count
    landmark = (own + 1) * block - 1
    local = [j for j in range(own * block, min(end, (own + 1) * block)) if j != landmark]
    others = [n for n in range(own if causal else count // block) if n != own]
    marks = [k[(n + 1) * block - 1] @ q for n in others]
    if top_k is not None:
        best = sorted(range(len(others)), key=lambda n: marks[n].item(), reverse=True)[:top_k]
        others, marks = [others[n] for n in best], [marks[n] for n in best]
    weights = torch.softmax(torch.stack([*(k[j] @ q for j in local), *marks]), 0)
    out = weights[: len(local)] @ v[local]
    for weight, n in zip(weights[len(local) :], others, strict=True):
        inside = slice(n * block, (n + 1) * block - 1)
        out = out + weight * (torch.softmax(k[inside] @ q, 0) @ v[inside])
    return out

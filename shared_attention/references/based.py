"""Taylor linear attention, one query at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from shared_attention.masks import Mask
from shared_attention.primitives.heads import expand_heads


def reference_based(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Mask | None = None, scale: float | None = None
) -> Tensor:
    """Return Taylor linear attention `[B, H, L, Dv]` in float64, reading only visible keys."""
    q, k, v = (expand_heads(x.double(), q.shape[1]) for x in (q, k, v))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    shape = (q.shape[0], 1, q.shape[2], k.shape[2])
    allowed = torch.ones(shape, dtype=torch.bool)
    if mask is not None:
        allowed = mask.to_dense(q.shape[2], k.shape[2], q.device).expand(shape)
    samples = []
    for b in range(q.shape[0]):
        rows = []
        for i in range(q.shape[2]):
            seen = allowed[b, 0, i]
            scores = scale * torch.einsum("hd,hsd->hs", q[b, :, i], k[b, :, seen])
            weights = ((scores + 1) ** 2 + 1) / 2
            total = weights.sum(-1, keepdim=True) if bool(seen.any()) else 1
            rows.append(torch.einsum("hs,hsd->hd", weights / total, v[b, :, seen]))
        samples.append(torch.stack(rows, 1))
    return torch.stack(samples)

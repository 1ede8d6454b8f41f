"""Linear attention as a matrix of similarities in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from shared_attention.masks import Mask
from shared_attention.primitives.heads import expand_heads


def reference_linear(q: Tensor, k: Tensor, v: Tensor, *, mask: Mask | None = None) -> Tensor:
    """Return linear attention `[B, H, L, Dv]` in float64 from the `[B, H, L, S]` similarities."""
    q, k, v = (expand_heads(x.double(), q.shape[1]) for x in (q, k, v))
    if mask is not None:
        allowed = mask.to_dense(q.shape[2], k.shape[2], q.device)
        seen = allowed.any(dim=2)[..., None]
        k, v = k.masked_fill(~seen, 0), v.masked_fill(~seen, 0)
    q_features = torch.where(q > 0, q + 1, q.clamp(max=0).exp())
    k_features = torch.where(k > 0, k + 1, k.clamp(max=0).exp())
    weights = torch.einsum("bhld,bhsd->bhls", q_features, k_features)
    if mask is not None:
        weights = weights * allowed
    total = weights.sum(-1, keepdim=True)
    return (weights / torch.where(total > 0, total, 1)) @ v

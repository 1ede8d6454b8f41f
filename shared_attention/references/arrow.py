"""Arrow attention as masked softmax attention in float64, without what is padded."""

from __future__ import annotations

import torch
from torch import Tensor

from shared_attention.masks import Mask, arrow, split, window
from shared_attention.references.softmax import reference_softmax


def reference_arrow(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None = None,
    scale: float | None = None,
    prefix: int = 1,
    left: int = 64,
    right: int = 64,
) -> Tensor:
    """Return `[B, H, L, Dv]` in float64."""
    seen = arrow(prefix) | window(left, right)
    valid = split(mask).keys
    if valid is None:
        return reference_softmax(q, k, v, mask=seen, scale=scale)
    out = v.new_zeros(*q.shape[:3], v.shape[3], dtype=torch.float64)
    for b, real in enumerate(valid):
        if real.any():
            kept = real.nonzero()[:, 0]
            one = (x[b : b + 1, :, kept] for x in (q, k, v))
            rows = reference_softmax(*one, mask=seen, scale=scale)
            out = _put(out, b, kept, rows[0])
    return out


def _put(out: Tensor, sample: int, kept: Tensor, rows: Tensor) -> Tensor:
    """Place `rows [H, n, D]` at positions `kept` of one sample."""
    filled = out[sample].index_copy(1, kept, rows)
    return torch.cat([out[:sample], filled[None], out[sample + 1 :]])

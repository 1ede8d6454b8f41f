"""Grouped heads: fewer key/value heads than query heads."""

from __future__ import annotations

from torch import Tensor


def expand_heads(x: Tensor, heads: int) -> Tensor:
    """Repeat each head so that `x [B, Hx, S, D]` has `heads` heads.

    Query head h reads key head h // (heads // Hx), as grouped-query attention does.
    """
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], dim=1)

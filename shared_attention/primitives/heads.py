"""Grouped heads: fewer key/value heads than query heads."""

from __future__ import annotations

import math

from torch import Tensor


def expand_heads(x: Tensor, heads: int) -> Tensor:
    """Repeat each head so that `x [B, Hx, S, D]` has `heads` heads.

    Query head h reads key head h // (heads // Hx), as grouped-query attention does.
    """
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], dim=1)


def match_heads(k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Repeat heads of keys and values until both have as many, for kernels that need it."""
    count = math.lcm(k.shape[1], v.shape[1])
    return expand_heads(k, count), expand_heads(v, count)


def grouped_product(x: Tensor, y: Tensor) -> Tensor:
    """Multiply `x [B, H, L, N]` by the head `y [B, Hy, N, M]` of each group, repeating nothing."""
    if x.shape[1] == y.shape[1]:
        return x @ y
    batch, heads, length, width = x.shape
    rows = x.reshape(batch, y.shape[1], -1, width) @ y
    return rows.view(batch, heads, length, y.shape[-1])

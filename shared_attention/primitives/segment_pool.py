"""Pooling of positions that carry the same segment number."""

from __future__ import annotations

import torch
from torch import Tensor


def segment_pool(x: Tensor, segments: Tensor, count: int, *, reduce: str = "mean") -> Tensor:
    """Pool the positions of each segment.

    Args:
        x: `[B, H, S, D]`.
        segments: int `[B, S]` in 0..count-1; negative positions belong to no segment and are
            not read.
        count: Number of segments.
        reduce: "mean", "sum" or "amax".

    Returns:
        `[B, H, count, D]`; zero for empty segments.
    """
    member = segments >= 0
    batch, heads, _, width = x.shape
    index = torch.where(member, segments, count)[:, None, :, None].expand_as(x)
    blanked = x.masked_fill(~member[:, None, :, None], 0)
    pooled = x.new_zeros(batch, heads, count + 1, width)
    pooled = pooled.scatter_reduce(2, index, blanked, reduce=reduce, include_self=False)
    return pooled[:, :, :count]

"""Attention of blocks of queries to lists of key blocks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def fetch_blocks(x: Tensor, ids: Tensor) -> Tensor:
    """Read blocks `ids [B, H, M, n]` of `x [B, H, N, b, D]`; returns `[B, H, M, n, b, D]`."""
    batch, heads, blocks = x.shape[:3]
    first = torch.arange(batch * heads, device=x.device).view(batch, heads, 1, 1) * blocks
    return x.flatten(0, 2)[ids + first]


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
) -> Tensor:
    """Attend from each block of queries to its own list of key blocks, in one softmax.

    Args:
        q: `[B, H, L, D]`, L a multiple of `block`.
        k: `[B, H, L, D]`.
        v: `[B, H, L, Dv]`.
        ids: Key blocks of each query block, int64 `[B, H, L / block, n]`.
        used: Which of them count, bool of the same shape.
        real: How many keys are real, the first ones, `[B]`.
        causal: Whether keys after the query are hidden.
        block: Positions per block.
        scale: Score scale.

    Returns:
        `[B, H, L, Dv]`; zero for queries that see no key.
    """
    batch, heads, length, _ = q.shape
    q, k, v = (x.unflatten(2, (-1, block)) for x in (q, k, v))
    inside = torch.arange(block, device=q.device)
    key = ids[..., None] * block + inside
    seen = (used[..., None] & (key < real[:, None, None, None, None])).flatten(-2)[..., None, :]
    if causal:
        query = torch.arange(length, device=q.device).view(-1, block, 1)
        seen = seen & (key.flatten(-2)[..., None, :] <= query)
    added = (1 - seen.to(q.dtype).reciprocal()).flatten(0, 2)[:, None]
    k, v = (fetch_blocks(x, ids).flatten(3, 4).flatten(0, 2)[:, None] for x in (k, v))
    out = F.scaled_dot_product_attention(
        q.flatten(0, 2)[:, None], k, v, attn_mask=added.expand(-1, -1, block, -1), scale=scale
    )
    return out.reshape(batch, heads, length, -1)

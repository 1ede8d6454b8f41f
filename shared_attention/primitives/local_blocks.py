"""Sliding-window attention as ordinary attention of query blocks to the keys around them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST_BLOCK = 32


def worth_blocking(left: int, right: int, keys: int) -> bool:
    """Say whether blocks beat one masked attention: the window is less than half of the keys."""
    return keys >= 2 * (left + right + 1)


def local_blocks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    left: int,
    right: int,
    keys: Tensor | None = None,
    scale: float | None = None,
    always: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Attend to the keys from `left` before to `right` after each query's position.

    Each block of C queries attends to the C + left + right keys around it, so time and memory
    are O(L · (C + left + right)); no L × S matrix exists. Positions are aligned bottom-right.

    Args:
        q: `[B, H, L, Dk]`.
        k: `[B, Hk, S, Dk]`, Hk dividing H.
        v: `[B, Hk, S, Dv]`.
        left: Earlier keys that are seen.
        right: Later keys that are seen.
        keys: bool `[B, S]`, the keys that are real.
        scale: Defaults to 1 / sqrt(Dk).
        always: More keys and values that every query sees, `[1 or B, Hk, P, Dk]` and `Dv`.

    Returns:
        `[B, H, L, Dv]`; zero for queries that see no key.
    """
    batch, heads, length, _ = q.shape
    count = k.shape[2]
    block = max((left + right) // 4, SMALLEST_BLOCK)
    blocks = -(-length // block)
    span = block + left + right
    before = left - (count - length)
    after = (blocks - 1) * block + span - before - count
    if keys is None:
        keys = torch.ones(1, count, dtype=torch.bool, device=q.device)
    else:
        k, v = (x.masked_fill(~keys[:, None, :, None], 0) for x in (k, v))

    query = torch.arange(block, device=q.device)[:, None]
    key = torch.arange(span, device=q.device)[None, :]
    band = (key >= query) & (key <= query + left + right)
    real = F.pad(keys, (before, after)).unfold(1, span, block)
    mask = band & real[:, :, None, :]
    mask = mask.expand(batch, -1, -1, -1).flatten(0, 1)[:, None]

    q = F.pad(q, (0, 0, 0, blocks * block - length))
    q = q.unflatten(2, (blocks, block)).transpose(1, 2).flatten(0, 1)
    k, v = (_around(x, before, after, span, block) for x in (k, v))
    if always is not None:
        k, v = (
            torch.cat([x.expand(batch, -1, -1, -1).repeat_interleave(blocks, 0), y], dim=2)
            for x, y in zip(always, (k, v), strict=True)
        )
        mask = F.pad(mask, (always[0].shape[2], 0), value=True)
    out = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, scale=scale, enable_gqa=k.shape[1] != heads
    )
    out = out.unflatten(0, (batch, blocks)).transpose(1, 2).flatten(2, 3)
    return out[:, :, :length]


def _around(x: Tensor, before: int, after: int, span: int, block: int) -> Tensor:
    """Gather the keys around each block: `[B, H, S, D]` to `[B * N, H, span, D]`."""
    padded = F.pad(x, (0, 0, before, after))
    return padded.unfold(2, span, block).permute(0, 2, 1, 4, 3).flatten(0, 1)

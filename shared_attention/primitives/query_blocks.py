"""Softmax attention with narrow keys and wide values, a block of queries at a time."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SCORES = 2**18
"""Scores per sample that are formed at once: about what a processor's cache holds."""
MANY = 8192
"""Positions from which on scores are not kept for the backward pass."""


def narrow_attention(
    q: Tensor, k: Tensor, v: Tensor, *, valid: Tensor | None = None, scale: float = 1.0
) -> Tensor:
    """Attend with keys much narrower than values.

    Fused attention needs equal widths; filling keys with zeros costs more than it saves on CPU
    until the scores no longer fit into memory. So scores are formed block by block there.

    Args:
        q: `[B, L, D]`.
        k: `[B, S, D]`.
        v: `[B, S, Dv]`, Dv at least D.
        valid: bool `[B, S]`, the keys that are real; values of the others have to be finite.
        scale: Of the scores.

    Returns:
        `[B, L, Dv]`; zero in samples without a valid key.
    """
    if valid is not None:
        v = v.masked_fill(~valid[..., None], 0)
        valid = valid | ~valid.any(-1, keepdim=True)
    if q.device.type != "cpu" or k.shape[1] > MANY:
        short = (0, v.shape[-1] - q.shape[-1])
        mask = None if valid is None else valid[:, None, None, :]
        q, k, v = F.pad(q, short)[:, None], F.pad(k, short)[:, None], v[:, None]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)[:, 0]
    block = max(32, SCORES // k.shape[1])
    parts = []
    for own in (q * scale).split(block, 1):
        scores = own @ k.mT
        if valid is not None:
            scores = scores.masked_fill(~valid[:, None], -math.inf)
        parts.append(scores.softmax(-1) @ v)
    return torch.cat(parts, 1)

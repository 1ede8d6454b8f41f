"""How many keys each query sees."""

from __future__ import annotations

import torch
from torch import Tensor

from shared_attention.masks import Mask, split


def visible_keys(mask: Mask | None, q: Tensor, k: Tensor) -> Tensor:
    """Count the keys that each query sees, from the structure of the mask where it has one.

    Padding and the future are not counted, so that neither changes what is derived from it.

    Args:
        mask: Any mask.
        q: `[B, H, L, D]`.
        k: `[B, Hk, S, D]`.

    Returns:
        int64 `[B or 1, H or 1, L or 1]`.
    """
    length, count, device = q.shape[2], k.shape[2], q.device
    parts = split(mask)
    if mask is not None and (parts.window is not None or parts.rest is not None):
        return mask.to_dense(length, count, device).sum(-1)
    if parts.causal:
        until = (torch.arange(length, device=device) + (count - length + 1)).clamp(min=0)
        if parts.keys is None:
            return until[None, None]
        so_far = parts.keys.cumsum(-1)
        so_far = torch.cat([torch.zeros_like(so_far[:, :1]), so_far], dim=-1)
        return so_far[:, None, until]
    if parts.keys is not None:
        return parts.keys.sum(-1)[:, None, None]
    return torch.full((1, 1, 1), count, device=device)

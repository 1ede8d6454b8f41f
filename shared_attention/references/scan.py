"""Attention of one constant query over every prefix, one prefix at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from shared_attention.masks import Mask, split


def reference_scan(
    query: Tensor, k: Tensor, v: Tensor, *, mask: Mask | None = None, scale: float | None = None
) -> Tensor:
    """Take an ordinary softmax over each prefix.

    Args:
        query: `[H, D]`.
        k: Keys `[B, H, L, D]`.
        v: Values `[B, H, L, Dv]`.
        mask: None, or `masks.keys(valid)`.
        scale: Score scale; None is 1 / sqrt(D).

    Returns:
        float64 `[B, H, L, Dv]`.
    """
    query, k, v = query.double(), k.double(), v.double()
    scale = k.shape[-1] ** -0.5 if scale is None else scale
    valid = split(mask).keys
    samples = []
    for b in range(k.shape[0]):
        real = [True] * k.shape[2] if valid is None else valid[b].tolist()
        keys = [j for j in range(k.shape[2]) if real[j]]
        scores = torch.einsum("hd,hsd->hs", query, k[b, :, keys]) * scale
        prefixes = [sum(real[: i + 1]) for i in range(k.shape[2])]
        rows = [
            torch.einsum("hs,hsd->hd", scores[:, :n].softmax(-1), v[b, :, keys[:n]])
            for n in prefixes
        ]
        samples.append(torch.stack(rows, 1))
    return torch.stack(samples)

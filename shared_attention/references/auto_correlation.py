"""Auto-Correlation in the time domain."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from shared_attention.masks import Mask


def reference_auto_correlation(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Mask | None = None, factor: float = 1.0
) -> Tensor:
    """Roll the series against each other lag by lag, one sample at a time.

    Args:
        q: Queries `[B, H, L, D]`.
        k: Keys `[B, H, S, D]`.
        v: Values `[B, H, S, Dv]`.
        mask: None.
        factor: Lag factor.

    Returns:
        float64 `[B, H, L, Dv]`.
    """
    length = q.shape[2]
    count = min(length, max(1, int(factor * math.log(length))))
    samples = []
    for one_q, one_k, one_v in zip(q.double(), k.double(), v.double(), strict=True):
        one_k, one_v = _fit(one_k, length), _fit(one_v, length)
        likeness = [(one_q * one_k.roll(lag, dims=1)).sum(1).mean() for lag in range(length)]
        best = sorted(range(length), key=lambda lag: likeness[lag].item(), reverse=True)[:count]
        weights = torch.softmax(torch.stack([likeness[lag] for lag in best]), 0)
        shifted = [one_v.roll(-lag, dims=1) for lag in best]
        samples.append(torch.einsum("n,nhld->hld", weights, torch.stack(shifted)))
    return torch.stack(samples)


def _fit(x: Tensor, length: int) -> Tensor:
    """`[H, S, D]` cut or filled with zeros to `[H, L, D]`."""
    missing = x.new_zeros(x.shape[0], max(0, length - x.shape[1]), x.shape[2])
    return torch.cat([x[:, :length], missing], 1)

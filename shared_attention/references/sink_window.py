"""Sliding window with attention sinks as masked softmax attention in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from shared_attention.masks import Mask, causal, dense, split, window
from shared_attention.references.softmax import reference_softmax


def reference_sink_window(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None = None,
    scale: float | None = None,
    sinks: int = 4,
    left: int = 64,
    right: int = 64,
) -> Tensor:
    """Return `[B, H, L, Dv]` in float64; sinks are the first keys that `mask` does not pad."""
    count = k.shape[2]
    parts = split(mask)
    real = torch.ones(1, count, dtype=torch.bool) if parts.keys is None else parts.keys
    sink = torch.zeros_like(real)
    for sample, row in enumerate(real.tolist()):
        for j in [j for j in range(count) if row[j]][:sinks]:
            sink[sample, j] = True
    seen = window(left, right) | dense(sink[:, None, None, :])
    if parts.causal:
        seen = seen & causal()
    return reference_softmax(q, k, v, mask=seen if mask is None else seen & mask, scale=scale)

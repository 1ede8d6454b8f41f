"""Core context aware attention, one query at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from shared_attention.masks import Mask, split


def reference_core_context(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None = None,
    scale: float | None = None,
    group: int = 16,
    local: int = 256,
) -> Tensor:
    """Return `[B, H, L, Dv]` in float64, dropping padded positions."""
    batch, heads, length, width = q.shape
    scale = width**-0.5 if scale is None else scale
    q, k, v = q.double() * scale, k.double(), v.double()
    parts = split(mask)
    rows = []
    for b in range(batch):
        kept = list(range(length))
        if parts.keys is not None:
            kept = [j for j in kept if parts.keys[b, j]]
        for h in range(heads):
            query = q[b, h][kept]
            key, value = k[b, h * k.shape[1] // heads][kept], v[b, h * v.shape[1] // heads][kept]
            cores = _cores(query, key, value, group)
            for i in range(length):
                if i not in kept:
                    rows.append(v.new_zeros(v.shape[-1]))
                    continue
                place = kept.index(i)
                rows.append(
                    _row(query[place], key, value, cores, place, parts.causal, group, local)
                )
    return torch.stack(rows).view(batch, heads, length, -1)


def _cores(q: Tensor, k: Tensor, v: Tensor, group: int) -> list[tuple[Tensor, Tensor]]:
    cores = []
    for start in range(0, len(k), group):
        own = slice(start, min(start + group, len(k)))
        weights = torch.softmax(k[own] @ q[own][-1], 0)
        cores.append((weights @ k[own], weights @ v[own]))
    return cores


def _row(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cores: list[tuple[Tensor, Tensor]],
    place: int,
    causal: bool,
    group: int,
    local: int,
) -> Tensor:
    """Query at `place` among the real positions."""
    seen = place + 1
    window = seen if seen <= local else local + (seen - local) % group
    start, end = seen - window, seen
    distant = cores[: start // group]
    if not causal:
        end = -(-(place + local) // group) * group
        distant = distant + cores[end // group :]
    keys = torch.stack([*(core[0] for core in distant), *k[start:end]])
    values = torch.stack([*(core[1] for core in distant), *v[start:end]])
    return torch.softmax(keys @ q, 0) @ values

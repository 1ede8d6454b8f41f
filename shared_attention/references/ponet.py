"""PoNet with loops, one sample at a time, without its padding."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from shared_attention.masks import Mask, split


def reference_ponet(
    x: Tensor,
    *,
    mask: Mask | None = None,
    parameters: Mapping[str, Tensor],
    num_heads: int = 8,
    segments: int = 32,
) -> Tensor:
    """Return `PoNet` `[B, L, C]` in float64."""
    valid = split(mask).keys
    samples = []
    for b in range(x.shape[0]):
        real = torch.ones(x.shape[1], dtype=torch.bool) if valid is None else valid[b]
        places = real.nonzero().flatten().tolist()
        own = _sample(x[b, places].double(), places, parameters, num_heads, segments)
        rows = iter(own)
        zero = x.new_zeros(x.shape[2], dtype=torch.float64)
        samples.append(torch.stack([next(rows) if r else zero for r in real.tolist()]))
    return torch.stack(samples)


def _sample(
    x: Tensor, places: list[int], parameters: Mapping[str, Tensor], heads: int, segments: int
) -> list[Tensor]:
    if not places:
        return []
    mixed = x @ parameters["project.weight"].mT + parameters["project.bias"]
    q, k, o, segment, local = mixed.chunk(5, -1)
    pooled = []
    for query, keys in zip(q.mean(0).chunk(heads), k.chunk(heads, -1), strict=True):
        weights = (keys @ query / query.shape[0] ** 0.5).softmax(0)
        pooled.append(weights @ keys)
    size = len(places) // segments + 1
    rows = []
    for i, place in enumerate(places):
        first = i // size * size
        near = [j for j, other in enumerate(places) if abs(other - place) <= 1]
        largest = segment[first : first + size].amax(0)
        rows.append((torch.cat(pooled) + largest) * o[i] + local[near].amax(0))
    return rows

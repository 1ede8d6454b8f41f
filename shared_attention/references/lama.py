"""LAMA pooling, one sample and one head at a time, without padding."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from shared_attention.masks import Mask, split


def reference_lama(
    x: Tensor, *, mask: Mask | None = None, parameters: Mapping[str, Tensor], num_heads: int = 8
) -> Tensor:
    """Return `LowRankPooling` `[B, heads, C]` in float64."""
    valid = split(mask).keys
    samples = []
    for b in range(x.shape[0]):
        own = x[b].double() if valid is None else x[b, valid[b]].double()
        if not len(own):
            samples.append(x.new_zeros(num_heads, x.shape[2], dtype=torch.float64))
            continue
        affinities = [
            (own.mean(0) @ parameters["context"][:, h]) * (own @ parameters["query"][:, h])
            for h in range(num_heads)
        ]
        levels = torch.stack(affinities).tanh()
        levels = levels / (levels.square().sum(0) + 1e-12).sqrt()
        samples.append(torch.stack([level.softmax(0) @ own for level in levels]))
    return torch.stack(samples)

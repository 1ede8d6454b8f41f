"""Channel attention, one channel at a time."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from shared_attention.masks import Mask, split


def reference_channel(
    x: Tensor, *, parameters: Mapping[str, Tensor], mask: Mask | None = None
) -> Tensor:
    """Weigh whole channels, cut to the real positions, by how little they resemble each other.

    Args:
        x: `[B, *grid, C]`.
        parameters: Those of `ChannelAttention`, in float64.
        mask: `masks.keys(valid)`.

    Returns:
        float64 `[B, *grid, C]`.
    """
    keys = split(mask).keys
    samples = []
    for b, sample in enumerate(x.flatten(1, -2)):
        real = torch.ones(len(sample), dtype=torch.bool) if keys is None else keys[b]
        channels = sample[real].T
        rows = []
        for own in channels:
            energy = torch.stack([own @ other for other in channels])
            share = (energy.max() - energy).softmax(0)
            rows.append(own + parameters["gamma"] * (share @ channels))
        out = torch.zeros_like(sample)
        out[real] = torch.stack(rows).T
        samples.append(out)
    return torch.stack(samples).view(x.shape)

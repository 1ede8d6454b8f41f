"""Density adaptive attention by densities, one channel or position at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from shared_attention.masks import Mask, split

EPS = 1e-8


def reference_density_adaptive(
    x: Tensor,
    *,
    parameters: Mapping[str, Tensor],
    mask: Mask | None = None,
    num_heads: int = 4,
    num_gaussians: int = 4,
    axis: str = "time",
    combine: str = "product",
    form: str = "corrected",
) -> Tensor:
    """Evaluate each Gaussian at each value, multiply or sum them, and divide by the total.

    Args:
        x: `[B, L, C]`.
        parameters: Those of `DensityAdaptiveAttention`, in float64.
        mask: `masks.keys(valid)`.
        num_heads: Heads.
        num_gaussians: Gaussians of a head; those of the parameters count.
        axis: "time" or "channels".
        combine: "product" or "mixture".
        form: "corrected" or "published".

    Returns:
        float64 `[B, L, C]`.
    """
    keys = split(mask).keys
    gaussians = list(zip(parameters["offsets"], parameters["log_widths"].exp(), strict=True))
    batch, length, channels = x.shape
    group = channels // num_heads
    samples = []
    for b in range(batch):
        real = [i for i in range(length) if keys is None or keys[b, i]]
        out = torch.zeros_like(x[b])
        for h in range(num_heads):
            mine = slice(h * group, (h + 1) * group)
            if axis == "channels":
                for i in real:
                    out[i, mine] = _weigh(x[b, i, mine], *gaussians[h], combine)
                continue
            channel_range = range(channels) if form == "published" else range(channels)[mine]
            places = real
            if form == "published":
                size = length // num_heads
                places = real[h * size : length if h == num_heads - 1 else (h + 1) * size]
            for c in channel_range if places else ():
                out[places, c] = _weigh(x[b, places, c], *gaussians[h], combine)
        samples.append(out)
    return torch.stack(samples)


def _weigh(values: Tensor, offsets: Tensor, widths: Tensor, combine: str) -> Tensor:
    mean = values.sum() / len(values)
    variance = (values - mean).square().sum() / max(1, len(values) - 1) + EPS
    total = torch.ones_like(values) if combine == "product" else torch.zeros_like(values)
    for offset, width in zip(offsets, widths, strict=True):
        y = (values - mean - offset) / variance.sqrt()
        density = torch.exp(-(y**2) / (2 * width**2)) / (width * math.sqrt(2 * math.pi))
        total = total * density if combine == "product" else total + density
    return values * total / total.sum()

"""Histogram self-attention with every bin built from explicit ranks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from shared_attention.references.gn_conv import shifted_sum


def reference_histogram(
    x: Tensor, *, parameters: Mapping[str, Tensor], num_heads: int = 4, bias: bool = False
) -> Tensor:
    """Sort, bin and attend one sample and one head at a time.

    Args:
        x: `[B, H, W, C]`.
        parameters: Those of `HistogramAttention`, in float64.
        num_heads: Heads and bins.
        bias: Whether the parameters have biases.

    Returns:
        float64 `[B, H, W, C]`.
    """
    return torch.stack([_image(one, parameters, num_heads, bias) for one in x])


def _image(x: Tensor, parameters: Mapping[str, Tensor], heads: int, bias: bool) -> Tensor:
    height, width, channels = x.shape
    half = channels // 2
    down = x[..., :half].argsort(dim=0, stable=True)
    sorted_down = torch.take_along_dim(x[..., :half], down, 0)
    across = sorted_down.argsort(dim=1, stable=True)
    mixed = torch.cat([torch.take_along_dim(sorted_down, across, 1), x[..., half:]], -1)
    mixed = _pointwise(mixed, parameters, "qkv", bias)
    mixed = shifted_sum(mixed[None], parameters["qkv_dwconv.weight"])[0]
    mixed = mixed + parameters["qkv_dwconv.bias"] if bias else mixed
    q1, k1, q2, k2, v = mixed.flatten(0, 1).T.split(channels)
    ranks = v.argsort(dim=1, stable=True)
    size = -(-height * width // heads)
    group = channels // heads
    outs = []
    for h in range(heads):
        mine = range(h * group, (h + 1) * group)
        temperature = parameters["temperature"][h, 0, 0]
        runs = [(c, ranks[c, f * size : (f + 1) * size]) for c in mine for f in range(heads)]
        strides = [(c, ranks[c, f::heads]) for c in mine for f in range(heads)]
        first = _attend(q1, k1, v, runs, size, temperature)
        second = _attend(q2, k2, v, strides, size, temperature)
        outs.append((first * second)[list(mine)])
    out = _pointwise(torch.cat(outs).T.view(height, width, -1), parameters, "project_out", bias)
    undo_across, undo_down = across.argsort(1), down.argsort(0)
    first_half = torch.take_along_dim(out[..., :half], undo_across, 1)
    first_half = torch.take_along_dim(first_half, undo_down, 0)
    return torch.cat([first_half, out[..., half:]], -1)


def _pointwise(x: Tensor, parameters: Mapping[str, Tensor], name: str, bias: bool) -> Tensor:
    y = x @ parameters[f"{name}.weight"][:, :, 0, 0].T
    return y + parameters[f"{name}.bias"] if bias else y


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bins: list[tuple[int, Tensor]],
    size: int,
    temperature: Tensor,
) -> Tensor:
    """Attend between bins; each result goes where its bin's pixels are."""

    def rows(y: Tensor) -> Tensor:
        short = [torch.zeros(size - len(places)).double() for _, places in bins]
        return torch.stack(
            [
                torch.cat([y[c, places], zeros])
                for (c, places), zeros in zip(bins, short, strict=True)
            ]
        )

    unit_q, unit_k = (y / y.norm(dim=1, keepdim=True).clamp(min=1e-12) for y in (rows(q), rows(k)))
    weights = (temperature * unit_q @ unit_k.T).exp()
    weights = weights / (1 + weights.sum(1, keepdim=True))
    out = torch.zeros_like(v)
    for (c, places), row in zip(bins, weights @ rows(v), strict=True):
        out[c, places] = row[: len(places)]
    return out

"""Hyena with every filter as an explicit matrix between positions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import product

import torch
from torch import Tensor

from shared_attention.masks import Mask, split
from shared_attention.references.gn_conv import shifted_sum


def reference_hyena(
    x: Tensor,
    *,
    parameters: Mapping[str, Tensor],
    mask: Mask | None = None,
    order: int = 2,
    dims: int = 1,
    length: int = 1024,
    directions: str = "forward",
    filters: str = "joint",
    hidden: int = 64,
    bands: int = 1,
) -> Tensor:
    """Multiply with the matrix of filter values h(i - j), zero where a lag is negative.

    Args:
        x: `[B, *grid, C]`.
        parameters: Those of `Hyena`, in float64.
        mask: `masks.keys(valid)`, `masks.causal()` or both; the latter changes nothing.
        order: Order N.
        dims: Dimensions of the grid; those of `x` count.
        length: Lag that the filters take as 1.
        directions: From which corners the convolutions run.
        filters: "joint" or "product".
        hidden: Width of the filter MLP; that of the parameters counts.
        bands: Frequencies of the lag's features.

    Returns:
        float64 `[B, *grid, C]`.
    """
    batch, *grid, channels = x.shape
    dims = len(grid)
    keys = split(mask).keys
    real = torch.ones(x.shape[:-1]) if keys is None else keys.reshape(x.shape[:-1])
    real = real.double()[..., None]
    y = torch.where(real > 0, x, 0) @ parameters["in_proj.weight"].T + parameters["in_proj.bias"]
    y = y * real
    weight = parameters["short.weight"]
    if dims == 1 and directions == "forward":
        y = torch.cat([torch.zeros_like(y[:, :2]), y], 1)
        y = torch.stack([y[:, t : t + grid[0]] * weight[:, 0, t] for t in range(3)]).sum(0)
    else:
        y = shifted_sum(y, weight)
    parts = (y + parameters["short.bias"]).flatten(1, dims).split(channels, -1)
    real = real.flatten(1, dims)
    corners = list(product((1, -1), repeat=dims))
    forward, backward = corners[0], corners[-1]
    if directions == "all":
        ways = [[signs] * (order - 1) for signs in corners]
        shares = [
            parameters["mix"][sum(1 << axis for axis in range(dims) if signs[axis] < 0)]
            for signs in corners
        ]
    else:
        start = backward if directions == "sequential" else forward
        ways, shares = [[start] + [forward] * (order - 2)], [torch.ones(()).double()]
    total = torch.zeros_like(parts[0])
    for signs, share in zip(ways, shares, strict=True):
        v = parts[-1]
        for n in range(1, order):
            v = v * parts[order - n] * real
            matrix = _matrix(grid, signs[n - 1], parameters, length, bands, filters)
            matrix = matrix[..., (n - 1) * channels : n * channels]
            v = torch.einsum("ijc,bjc->bic", matrix, v) + v * parameters["skip"][n - 1]
        total = total + share * v
    out = (parts[0] * total) @ parameters["out_proj.weight"].T + parameters["out_proj.bias"]
    return (out * real).view(batch, *grid, channels)


def _matrix(
    grid: list[int],
    signs: tuple[int, ...],
    parameters: Mapping[str, Tensor],
    length: int,
    bands: int,
    filters: str,
) -> Tensor:
    """Filter values from position j to i, `[S, S, filters]`."""
    dims = len(grid)
    places = torch.cartesian_prod(*(torch.arange(size) for size in grid)).view(-1, dims)
    lags = (places[:, None] - places[None]) * torch.tensor(signs)
    if filters == "product" and dims > 1:
        value = torch.ones(()).double()
        for axis in range(dims):
            value = value * _filter(lags[..., axis : axis + 1], parameters, axis, length, bands)
    else:
        value = _filter(lags, parameters, 0, length, bands)
    return torch.where((lags >= 0).all(-1)[..., None], value, 0)


def _filter(
    lags: Tensor, parameters: Mapping[str, Tensor], number: int, length: int, bands: int
) -> Tensor:
    """The filter MLP at any lags, `[..., axes] -> [..., filters]`."""
    mine = {name.split(".", 2)[2]: value for name, value in parameters.items()
            if name.startswith(f"filters.{number}.")}  # fmt: skip
    features = []
    for lag in lags.double().unbind(-1):
        features.append(lag / (length - 1))
        steps = [1e-4 + band * (bands - 1 - 1e-4) / max(1, bands - 1) for band in range(bands)]
        angles = [2 * math.pi * lag / length * step for step in steps]
        features += [angle.cos() for angle in angles] + [-angle.sin() for angle in angles]
    y = torch.stack(features, -1)
    for layer in range(3):
        y = y @ mine[f"layers.{layer}.weight"].T + mine[f"layers.{layer}.bias"]
        y = torch.sin(mine["frequency"] * y)
    reach = lags.double().sum(-1)[..., None] / (length - 1)
    return (y @ mine["out.weight"].T) * torch.exp(-reach * mine["decay"])

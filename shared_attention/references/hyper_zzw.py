"""HyperZ·Z·W as sums over pairs of positions."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

Parameters = Mapping[str, Tensor]


def reference_hyper_zzw(
    x: Tensor,
    *,
    parameters: Parameters,
    dims: int = 2,
    branch: str = "global",
    kernel: int = 5,
    hidden: int = 32,
    depth: int = 2,
    length: int = 32,
    form: str = "corrected",
) -> Tensor:
    """Add up K_j z_k for all j, k that meet at each position, one sample at a time.

    Args:
        x: `[B, *grid, C]`.
        parameters: Those of `HyperZzw`, in float64.
        dims: Dimensions of the grid; those of `x` count.
        branch: "global" or "local".
        kernel: Size of local kernels.
        hidden: Width of the slow network; that of the parameters counts.
        depth: Multiplicative layers of the slow network.
        length: Without meaning here.
        form: "corrected" or "published".

    Returns:
        float64 `[B, *grid, C]`.
    """
    return torch.stack([_sample(one, parameters, branch, kernel, depth, form) for one in x])


def _sample(
    x: Tensor, parameters: Parameters, branch: str, kernel: int, depth: int, form: str
) -> Tensor:
    *grid, channels = x.shape
    flat = _linear(x.reshape(-1, channels), parameters, "mixer")
    z = (flat - flat.mean(0)) / (flat.var(0, unbiased=False) + 1e-5).sqrt()
    z = z.view(x.shape)
    if branch == "local":
        sizes, centre = [kernel] * len(grid), [kernel // 2] * len(grid)
        kernels = _slow(sizes, parameters, depth, _pooled(x, kernel))
    else:
        sizes, centre = grid, [n // 2 for n in grid]
        kernels = _slow(sizes, parameters, depth, None) * x
    if branch == "global" and form == "published":
        rows = [[kernels[i] * z[:, k] for k in range(grid[1])] for i in range(grid[0])]
        return torch.stack([torch.stack([pair.sum(0) for pair in row]) for row in rows])
    places = _places(grid)
    out = torch.zeros_like(z)
    for tap in _places(sizes):
        shift = [t - c for t, c in zip(tap, centre, strict=True)]
        if branch == "local":
            shift = [-s for s in shift]
        for place in places:
            source = tuple(p - s for p, s in zip(place, shift, strict=True))
            if all(0 <= s < n for s, n in zip(source, grid, strict=True)):
                index = torch.zeros(grid, dtype=x.dtype)
                index[place] = 1
                out = out + index[..., None] * (kernels[tap] * z[source])
    return out + parameters["bias"] if branch == "local" else out


def _places(grid: list[int]) -> list[tuple[int, ...]]:
    ranges = torch.meshgrid(*(torch.arange(n) for n in grid), indexing="ij")
    return [tuple(place) for place in torch.stack(ranges, -1).view(-1, len(grid)).tolist()]


def _pooled(x: Tensor, kernel: int) -> Tensor:
    """Mean over the stretch of each axis that a tap of the kernel stands for."""
    for axis in range(x.dim() - 1):
        size = x.shape[axis]
        ends = [(i * size // kernel, -(-(i + 1) * size // kernel)) for i in range(kernel)]
        means = [x.narrow(axis, a, b - a).mean(axis) for a, b in ends]
        x = torch.stack(means, axis)
    return x


def _slow(sizes: list[int], parameters: Parameters, depth: int, pooled: Tensor | None) -> Tensor:
    steps = [[-1 + 2 * i / max(1, n - 1) for i in range(n)] for n in sizes]
    coordinates = [[steps[axis][i] for axis, i in enumerate(place)] for place in _places(sizes)]
    c = torch.tensor(coordinates, dtype=torch.float64)
    h = torch.sin(_linear(c, parameters, "slow.sines.0"))
    for i in range(depth):
        wave = torch.sin(_linear(c, parameters, f"slow.sines.{i + 1}"))
        h = wave * _linear(h, parameters, f"slow.layers.{i}")
        if pooled is not None:
            u = _linear(pooled.reshape(len(c), -1), parameters, "reduce")
            u = _linear(u, parameters, "inner")
            u = u * (1 + torch.erf(u / math.sqrt(2))) / 2
            h = (h + 0.1 * h / h.norm(dim=0)) * _linear(u, parameters, f"slow.contexts.{i}")
    return _linear(h, parameters, "slow.out").view(*sizes, -1)


def _linear(x: Tensor, parameters: Parameters, name: str) -> Tensor:
    return x @ parameters[f"{name}.weight"].T + parameters[f"{name}.bias"]

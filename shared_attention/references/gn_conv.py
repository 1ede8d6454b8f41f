"""gⁿConv with its convolution as shifted copies of the grid."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import torch
from torch import Tensor

from shared_attention.masks import Mask, split


def reference_gn_conv(
    x: Tensor,
    *,
    parameters: Mapping[str, Tensor],
    mask: Mask | None = None,
    order: int = 5,
    kernel: int = 7,
    scale: float = 1 / 3,
    dims: int = 2,
) -> Tensor:
    """Follow the recursion with explicit matrices; padding is cut out of every sum.

    Args:
        x: `[B, *grid, C]`.
        parameters: Those of `GnConv`, in float64.
        mask: `masks.keys(valid)`.
        order: Order n.
        kernel: Size of the kernel.
        scale: Factor of the gates.
        dims: Dimensions of the grid; those of `x` count.

    Returns:
        float64 `[B, *grid, C]`.
    """
    keys = split(mask).keys
    real = torch.ones(x.shape[:-1]) if keys is None else keys.reshape(x.shape[:-1])
    real = real.double()[..., None]
    x = torch.where(real > 0, x, 0)
    first = x.shape[-1] // 2 ** (order - 1)
    mixed = torch.einsum("b...c,oc->b...o", x, parameters["proj_in.weight"])
    mixed = mixed + parameters["proj_in.bias"]
    p, q = mixed[..., :first], mixed[..., first:]
    gates = scale * (shifted_sum(q * real, parameters["dwconv.weight"]) + parameters["dwconv.bias"])
    at, width = 0, first
    for k in range(order):
        if k:
            weight = parameters[f"pws.{k - 1}.weight"]
            p = torch.einsum("b...c,oc->b...o", p, weight) + parameters[f"pws.{k - 1}.bias"]
        p = p * gates[..., at : at + width]
        at, width = at + width, 2 * width
    out = torch.einsum("b...c,oc->b...o", p, parameters["proj_out.weight"])
    return (out + parameters["proj_out.bias"]) * real


def shifted_sum(x: Tensor, weight: Tensor) -> Tensor:
    """Centred depthwise convolution as Σ over taps of weight times the shifted grid.

    Args:
        x: `[B, *grid, C]`.
        weight: `[C, 1, *kernel]`, odd sizes.
    """
    grid, sizes = x.shape[1:-1], weight.shape[2:]
    out = torch.zeros_like(x)
    for number, tap in enumerate(product(*(range(size) for size in sizes))):
        source: list[slice] = [slice(None)]
        target: list[slice] = [slice(None)]
        for length, size, at in zip(grid, sizes, tap, strict=True):
            ahead = at - size // 2
            source.append(slice(max(0, ahead), max(0, min(length, length + ahead))))
            target.append(slice(max(0, -ahead), max(0, min(length, length - ahead))))
        moved = torch.zeros_like(x)
        moved[tuple(target)] = x[tuple(source)]
        out = out + moved * weight[:, 0].flatten(1)[:, number]
    return out

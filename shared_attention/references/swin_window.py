"""Window attention as plain attention within blocks cut out of the grid, one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor


def reference_swin_window(
    x: Tensor,
    parameters: Mapping[str, Tensor],
    *,
    num_heads: int,
    window: int | Sequence[int],
    shift: int | Sequence[int] = 0,
    **options: Any,
) -> Tensor:
    """Cut each axis at `shift`, `shift + window`, ... and attend within each block.

    Args:
        x: `[B, *grid, C]`.
        parameters: Of the module, by name.
        num_heads: Heads.
        window: Size of the windows.
        shift: Displacement of the windows.
        **options: Not needed: the parameters show them.

    Returns:
        float64 `[B, *grid, C]`.
    """
    x = x.double()
    grid = x.shape[1:-1]
    sizes = (window,) * len(grid) if isinstance(window, int) else tuple(window)
    moved = (shift,) * len(grid) if isinstance(shift, int) else tuple(shift)
    cuts = [_cuts(*axis) for axis in zip(grid, sizes, moved, strict=True)]
    out = torch.zeros_like(x)
    for block in product(*cuts):
        at = (slice(None), *block)
        out[at] = _attend(x[at], parameters, num_heads, sizes)
    return out


def _cuts(size: int, window: int, shift: int) -> list[slice]:
    starts = [0] if size <= window else sorted({0, *range(shift, size, window)})
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], size], strict=True)]


def _attend(
    x: Tensor, parameters: Mapping[str, Tensor], heads: int, window: Sequence[int]
) -> Tensor:
    batch, *block, width = x.shape
    places = list(product(*(range(size) for size in block)))
    qkv = x.reshape(batch, -1, width) @ parameters["qkv.weight"].T
    if "qkv.bias" in parameters:
        qkv = qkv + parameters["qkv.bias"]
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).unbind(2)
    table = parameters["relative_position_bias_table"].reshape(*(2 * w - 1 for w in window), heads)
    out = []
    for i, place in enumerate(places):
        offsets = [
            [a - b + w - 1 for a, b, w in zip(place, p, window, strict=True)] for p in places
        ]
        bias = torch.stack([table[tuple(offset)] for offset in offsets], -1)
        scores = torch.einsum("bhd,bjhd->bhj", q[:, i], k) / (width // heads) ** 0.5
        weights = torch.softmax(scores + bias, -1)
        out.append(torch.einsum("bhj,bjhd->bhd", weights, v).flatten(1))
    joined = torch.stack(out, 1) @ parameters["proj.weight"].T + parameters["proj.bias"]
    return joined.reshape(x.shape)

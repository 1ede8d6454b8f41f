"""Aggregated attention pixel by pixel, each with its own list of keys."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def reference_aggregated(
    x: Tensor,
    parameters: Mapping[str, Tensor],
    *,
    num_heads: int,
    window: int = 3,
    reduction: int = 2,
    pretrained: int | None = None,
    **options: Any,
) -> Tensor:
    """Gather the keys of every pixel, take one softmax, add the learned tokens.

    Args:
        x: `[B, H, W, C]`.
        parameters: Of the module, by name.
        num_heads: Heads.
        window: Side of the local window.
        reduction: Side of a pooling cell.
        pretrained: Side of the grid that offsets are measured against.
        **options: Not needed: the parameters show them.

    Returns:
        float64 `[B, H, W, C]`.
    """
    p, x = parameters, x.double()
    height, width = x.shape[1:3]

    def linear(name: str, value: Tensor) -> Tensor:
        return F.linear(value, p[f"{name}.weight"], p.get(f"{name}.bias"))

    def heads(value: Tensor) -> Tensor:
        return value.unflatten(-1, (num_heads, -1))

    reduced = F.gelu(linear("reduce", x))
    rows, columns = (_cells(n, max(1, n // reduction)) for n in (height, width))
    pooled = [reduced[:, a:b, c:d].mean((1, 2)) for a, b in rows for c, d in columns]
    far = F.layer_norm(torch.stack(pooled, 1), x.shape[-1:], p["norm.weight"], p["norm.bias"])
    centres = [((a + b - 1) / 2, (c + d - 1) / 2) for a, b in rows for c, d in columns]
    far_k, far_v = (heads(part) for part in linear("kv", far).chunk(2, -1))
    all_k, all_v = (heads(part) for part in linear("kv", x).chunk(2, -1))
    all_q = F.normalize(heads(linear("q", x)), dim=-1)
    sides = [max(1, (pretrained or n) - 1) for n in (height, width)]
    reach = window // 2
    out = torch.zeros_like(x)
    for i in range(height):
        for j in range(width):
            places = [
                (i + a, j + b, (a + reach) * window + b + reach)
                for a in range(-reach, reach + 1)
                for b in range(-reach, reach + 1)
                if 0 <= i + a < height and 0 <= j + b < width
            ]
            offset = [o for _, _, o in places]
            near_k = torch.stack([all_k[:, a, b] for a, b, _ in places], 1)
            near_v = torch.stack([all_v[:, a, b] for a, b, _ in places], 1)
            q = all_q[:, i, j]
            steps = torch.tensor(
                [[(i - a) / sides[0] * 8, (j - b) / sides[1] * 8] for a, b in centres]
            ).to(x)
            spaced = steps.sign() * (steps.abs() + 1).log2() / math.log2(8)
            far_bias = linear("position_out", linear("position_in", spaced).relu()).T
            bias = torch.cat([p["local_bias"][:, offset], far_bias], -1)
            scaled = (q + p["query_embedding"][:, 0]) * F.softplus(p["temperature"][:, 0])
            scaled = scaled * math.log(len(places) + len(centres))
            k = F.normalize(torch.cat([near_k, far_k], 1), dim=-1)
            weights = (torch.einsum("bhd,bkhd->bhk", scaled, k) + bias).softmax(-1)
            tokens = torch.einsum("bhd,hdo->bho", q, p["tokens"]) + p["token_bias"][:, 0]
            near = weights[..., : len(places)] + tokens[..., offset]
            mixed = torch.einsum("bhk,bkhd->bhd", near, near_v)
            mixed = mixed + torch.einsum("bhk,bkhd->bhd", weights[..., len(places) :], far_v)
            out[:, i, j] = linear("proj", mixed.flatten(1))
    return out


def _cells(size: int, count: int) -> list[tuple[int, int]]:
    return [(i * size // count, math.ceil((i + 1) * size / count)) for i in range(count)]

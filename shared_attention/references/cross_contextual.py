"""Cross-contextual attention, one head at a time, with every key and value."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor


def reference_cross_contextual(
    x: Tensor,
    skip: Tensor,
    *,
    parameters: Mapping[str, Tensor],
    depth: int = 2,
    num_heads: int = 8,
    head_dim: int = 64,
    form: str = "corrected",
) -> Tensor:
    """Let the tokens attend sample by sample.

    Args:
        x: Decoder features `[B, *grid, C]`.
        skip: Encoder features of the same shape.
        parameters: Those of `CrossContextualAttention`, in float64.
        depth: Rounds of exchange.
        num_heads: Heads.
        head_dim: Width of a head.
        form: "corrected" or "published".

    Returns:
        float64 `[B, *grid, 2 C]`.
    """
    samples = []
    for one, other in zip(x.flatten(1, -2), skip.flatten(1, -2), strict=True):
        token, other_token = one.mean(0), other.mean(0)
        context, other_context = (y[1:] if form == "published" else y for y in (one, other))
        for i in range(depth):
            token = token + _attend(token, other_context, parameters, f"decoder.{i}", num_heads)
            other_token = other_token + _attend(
                other_token, context, parameters, f"encoder.{i}", num_heads
            )
        if form == "published":
            one = torch.cat([token[None], one[1:]])
            other = torch.cat([other_token[None], other[1:]])
        else:
            one = one - one.mean(0) + token
            other = other - other.mean(0) + other_token
        samples.append(torch.cat([one, other], 1))
    return torch.stack(samples).view(*x.shape[:-1], -1)


def _attend(
    token: Tensor, context: Tensor, parameters: Mapping[str, Tensor], name: str, heads: int
) -> Tensor:
    own = F.layer_norm(
        token, token.shape, parameters[f"{name}.norm.weight"], parameters[f"{name}.norm.bias"]
    )
    seen = torch.cat([own[None], context])
    q = parameters[f"{name}.query.weight"] @ own
    k = seen @ parameters[f"{name}.key.weight"].T
    v = seen @ parameters[f"{name}.value.weight"].T
    outs = [
        torch.softmax(own_k @ own_q / len(own_q) ** 0.5, 0) @ own_v
        for own_q, own_k, own_v in zip(
            q.chunk(heads), k.chunk(heads, 1), v.chunk(heads, 1), strict=True
        )
    ]
    return parameters[f"{name}.out.weight"] @ torch.cat(outs) + parameters[f"{name}.out.bias"]

"""Position attention, one position at a time."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from shared_attention.masks import Mask, split


def reference_position(
    x: Tensor,
    *,
    parameters: Mapping[str, Tensor],
    mask: Mask | None = None,
    reduction: int = 8,
) -> Tensor:
    """Weigh the real positions for each real position.

    Args:
        x: `[B, *grid, C]`.
        parameters: Those of `PositionAttention`, in float64.
        mask: `masks.keys(valid)`.
        reduction: That of the parameters counts.

    Returns:
        float64 `[B, *grid, C]`.
    """
    keys = split(mask).keys
    samples = []
    for b, sample in enumerate(x.flatten(1, -2)):
        real = [True] * len(sample) if keys is None else keys[b].tolist()
        known = sample[[i for i, is_real in enumerate(real) if is_real]]
        q, k, v = (
            known @ parameters[f"{name}.weight"].T + parameters[f"{name}.bias"]
            for name in ("query", "key", "value")
        )
        rows = iter(
            own + parameters["gamma"] * (torch.softmax(k @ query, 0) @ v)
            for own, query in zip(known, q, strict=True)
        )
        zero = torch.zeros_like(sample[0])
        samples.append(torch.stack([next(rows) if is_real else zero for is_real in real]))
    return torch.stack(samples).view(x.shape)

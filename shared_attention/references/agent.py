"""Agent attention with explicit matrices, one sample at a time, without its padding."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from shared_attention.masks import Mask, split


def reference_agent(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None = None,
    parameters: Mapping[str, Tensor],
    agents: int = 49,
    conv: bool = True,
) -> Tensor:
    """Return `AgentAttention` of a sequence, `[B, H, L, D]` in float64."""
    valid = split(mask).keys
    samples = []
    for b in range(q.shape[0]):
        real = torch.ones(q.shape[2], dtype=torch.bool) if valid is None else valid[b]
        samples.append(_sample(q[b].double(), k[b].double(), v[b].double(), real, agents))
        if conv and bool(real.any()):
            samples[-1] = samples[-1] + _convolved(v[b].double(), real, parameters)
    return torch.stack(samples)


def _sample(q: Tensor, k: Tensor, v: Tensor, real: Tensor, agents: int) -> Tensor:
    if not real.any():
        return torch.zeros_like(v)
    own, keys, values = q[:, real], k[:, real], v[:, real]
    count, scale = own.shape[1], q.shape[-1] ** -0.5
    parts = [
        own[:, n * count // agents : -(-(n + 1) * count // agents)].mean(1) for n in range(agents)
    ]
    pooled = torch.stack(parts, 1)
    gathered = (pooled @ keys.mT * scale).softmax(-1) @ values
    return (q @ pooled.mT * scale).softmax(-1) @ gathered


def _convolved(v: Tensor, real: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
    weight = parameters["conv_weight"].unflatten(0, (v.shape[0], -1))[:, :, 0]
    bias = parameters["conv_bias"].unflatten(0, (v.shape[0], -1))
    rows = []
    for i in range(v.shape[1]):
        row = bias
        for offset in (-1, 0, 1):
            j = i + offset
            if 0 <= j < v.shape[1] and real[j]:
                row = row + weight[:, :, offset + 1] * v[:, j]
        rows.append(row)
    return torch.stack(rows, 1)

"""Titans' neural memory, one position at a time, its gradients by automatic differentiation."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from shared_attention.masks import Mask, split


def reference_neural_memory(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None = None,
    parameters: Mapping[str, Tensor],
    depth: int = 2,
    expansion: int = 2,
    chunk: int = 64,
    max_step: float = 0.01,
) -> Tensor:
    """Return `NeuralMemory` `[B, H, L, D]` in float64."""
    valid = split(mask).keys
    valid = torch.ones(k.shape[0], k.shape[2], dtype=torch.bool) if valid is None else valid
    hidden = ~valid[:, None, :, None]
    q, k, v = q.double(), k.double().masked_fill(hidden, 0), v.double().masked_fill(hidden, 0)
    gates = (k @ parameters["gates"] + parameters["gate_bias"]).sigmoid()
    q, k = (x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt() for x in (q, k))
    weights = [parameters[f"initial.{n}"].expand(k.shape[0], -1, -1, -1) for n in range(depth)]
    momentum = [torch.zeros_like(w) for w in weights]
    start = weights
    count = torch.zeros(k.shape[0], dtype=torch.int64)
    outs = []
    for t in range(k.shape[2]):
        now = slice(t, t + 1)
        gradients = _gradients(start, k[:, :, now], v[:, :, now])
        step, keep, forget = gates[:, :, t, :, None, None].unbind(2)
        real = valid[:, t, None, None, None]
        momentum = [
            torch.where(real, keep * s - max_step * step * g, s)
            for s, g in zip(momentum, gradients, strict=True)
        ]
        weights = [
            torch.where(real, (1 - forget) * w + s, w)
            for w, s in zip(weights, momentum, strict=True)
        ]
        outs.append(_network(q[:, :, now], weights).masked_fill(~real, 0))
        count = count + valid[:, t]
        full = (count == chunk)[:, None, None, None]
        start = [torch.where(full, w, s) for w, s in zip(weights, start, strict=True)]
        count = count % chunk
    return torch.cat(outs, 2)


def _network(x: Tensor, weights: list[Tensor]) -> Tensor:
    for weight in weights[:-1]:
        x = F.gelu(x @ weight)
    return x @ weights[-1]


def _gradients(weights: list[Tensor], k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    with torch.enable_grad():
        free = [w if w.requires_grad else w.detach().requires_grad_() for w in weights]
        loss = (_network(k, free) - v).square().sum()
        return torch.autograd.grad(loss, free, create_graph=True)

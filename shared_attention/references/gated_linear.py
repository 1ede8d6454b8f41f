"""Gated linear attention, one position at a time."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from shared_attention.masks import Mask, split


def reference_gated_linear(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None = None,
    parameters: Mapping[str, Tensor],
    rank: int = 16,
    normaliser: float = 16.0,
) -> Tensor:
    """Return `GatedLinearAttention` `[B, H, L, Dv]` in float64."""
    q, k, v = q.double(), k.double(), v.double()
    logits = torch.einsum("bhld,hdr,hre->bhle", k, parameters["down"], parameters["up"])
    decay = torch.sigmoid(logits + parameters["bias"]) ** (1 / normaliser)
    return recurrence(q, k, v, decay, split(mask).keys) * q.shape[-1] ** -0.5


def recurrence(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, valid: Tensor | None) -> Tensor:
    """Read q_t S_t, S_t = diag(decay_t) S_{t-1} + k_t v_tᵀ, leaving out what is not valid.

    Args:
        q: `[B, H, L, D]`.
        k: `[B, H, L, D]`.
        v: `[B, H, L, Dv]`.
        decay: `[B, H, L, D]`.
        valid: bool `[B, L]`, or None.
    """
    samples = []
    for b in range(q.shape[0]):
        state = q.new_zeros(q.shape[1], q.shape[3], v.shape[3])
        rows = []
        for t in range(q.shape[2]):
            if valid is None or valid[b, t]:
                written = k[b, :, t, :, None] * v[b, :, t, None, :]
                state = decay[b, :, t, :, None] * state + written
            rows.append((q[b, :, t, :, None] * state).sum(-2))
        samples.append(torch.stack(rows, 1))
    return torch.stack(samples)

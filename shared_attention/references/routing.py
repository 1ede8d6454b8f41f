"""Routing attention, one token at a time."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from shared_attention.masks import Mask, split


def reference_routing(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None = None,
    parameters: Mapping[str, Tensor],
    window: int = 64,
    **options: object,
) -> Tensor:
    """Return the corrected form `[B, H, L, Dv]` in float64.

    Args:
        q: `[B, H, L, D]`.
        k: `[B, H, L, D]`.
        v: `[B, H, L, Dv]`.
        mask: `masks.causal()`, `masks.keys(valid)` or both.
        parameters: `centroids [H, C, D]`.
        window: Members that each token attends to.
        **options: Without influence: the centroids are given.
    """
    q, k, v = q.double(), k.double(), v.double()
    batch, heads, length, width = q.shape
    parts = split(mask)
    rows = []
    for b in range(batch):
        real = [True] * length if parts.keys is None else parts.keys[b].tolist()
        for h in range(heads):
            clusters: dict[int, list[int]] = {}
            home = {}
            for i in [i for i in range(length) if real[i]]:
                token = q[b, h, i] / q[b, h, i].norm() + k[b, h, i] / k[b, h, i].norm()
                home[i] = int((parameters["centroids"][h] @ token).argmax())
                clusters.setdefault(home[i], []).append(i)
            for i in range(length):
                if not real[i]:
                    rows.append(v.new_zeros(v.shape[-1]))
                    continue
                members = clusters[home[i]]
                at = members.index(i)
                start = at + 1 - window if parts.causal else at - window // 2
                seen = members[max(0, start) : start + window]
                weights = torch.softmax(k[b, h, seen] @ q[b, h, i] / width**0.5, 0)
                rows.append(weights @ v[b, h, seen])
    return torch.stack(rows).view(batch, heads, length, -1)

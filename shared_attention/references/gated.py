"""Gated attention, one query at a time in float64."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from shared_attention.masks import Mask
from shared_attention.references.rows import reference_rows


def reference_gated(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    parameters: Mapping[str, Tensor],
    mask: Mask | None = None,
    bias: Tensor | None = None,
    inputs: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """Return gated attention `[B, H, L, Dv]` in float64.

    Args:
        q: `[B, H, L, Dk]`.
        k: `[B, Hk, S, Dk]`.
        v: `[B, Hk, S, Dv]`.
        parameters: Those of the module, whose shapes say which gate it is.
        mask: Any mask.
        bias: Additive.
        inputs: The layer's input split by heads; the queries by default.
        **options: Not used.
    """
    x = (q if inputs is None else inputs).double()

    def weigh(scores: Tensor, where: tuple[int, int, int]) -> Tensor:
        b, h, i = where
        weight = parameters["weight"][h]
        own = x[b, h, i]
        if "hidden_weight" in parameters:
            layer, shift = parameters["hidden_weight"][h], parameters["hidden_bias"][h]
            own = (torch.einsum("d,dn->n", own, layer) + shift).clamp(min=0)
        elif weight.shape[0] != own.shape[0]:
            own = torch.cat(list(x[b, :, i]))
        logit = (weight * own).sum() + parameters["bias"][h]
        return scores.softmax(0) / (1 + torch.exp(-logit))

    return reference_rows(q, k, v, weigh, mask=mask, bias=bias)

"""Selective attention, one query at a time in float64."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from shared_attention.masks import Mask
from shared_attention.references.rows import reference_rows


def reference_selective(
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
    """Return selective attention `[B, H, L, Dv]` in float64.

    Args:
        q: `[B, H, L, Dk]`.
        k: `[B, Hk, S, Dk]`.
        v: `[B, Hk, S, Dv]`.
        parameters: Those of the module; temperatures whose parameters are absent are one.
        mask: Any mask.
        bias: Additive.
        inputs: The layer's input split by heads; the queries by default.
        **options: Not used: the parameters say it all.
    """
    x = (q if inputs is None else inputs).double()

    def weigh(scores: Tensor, where: tuple[int, int, int]) -> Tensor:
        head = where[1]
        inverse = torch.ones((), dtype=torch.float64)
        if "query_weight" in parameters:
            token = (parameters["query_weight"][head] * x[where]).sum()
            inverse = inverse + torch.tanh(token + parameters["query_bias"][head])
        if "position_logit" in parameters:
            share = 1 / (1 + torch.exp(-parameters["position_logit"][head]))
            inverse = inverse + share * math.log(len(scores))
        return (inverse * scores).softmax(0)

    if "value_weight" in parameters:
        token = (k.double() * parameters["value_weight"]).sum(-1) + parameters["value_bias"]
        v = v.double() * (1 + torch.tanh(token))[..., None]
    return reference_rows(q, k, v, weigh, mask=mask, bias=bias)

"""Mixture of heads, one query and one head at a time in float64."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from shared_attention.masks import Mask
from shared_attention.references.rows import reference_rows


def reference_mixture_of_heads(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    parameters: Mapping[str, Tensor],
    mask: Mask | None = None,
    bias: Tensor | None = None,
    inputs: Tensor | None = None,
    shared: int | None = None,
    active: int | None = None,
) -> Tensor:
    """Return mixture-of-heads attention `[B, H, L, Dv]` in float64.

    Args:
        q: `[B, H, L, Dk]`.
        k: `[B, Hk, S, Dk]`.
        v: `[B, Hv, S, Dv]`.
        parameters: Those of the module.
        mask: Any mask.
        bias: Additive.
        inputs: The layer's input split by heads; the queries by default.
        shared: Heads that all tokens take; a quarter of all, and at least one, by default.
        active: Routed heads that each token takes; half of them by default.
    """
    heads = q.shape[1]
    shared = max(heads // 4, 1) if shared is None else shared
    active = (heads - shared + 1) // 2 if active is None else active
    x = (q if inputs is None else inputs).double().transpose(1, 2).flatten(2)
    gates = {
        (b, i): _gates(x[b, i], parameters, shared, active, heads)
        for b in range(x.shape[0])
        for i in range(x.shape[1])
    }

    def weigh(scores: Tensor, where: tuple[int, int, int]) -> Tensor:
        b, h, i = where
        return gates[b, i][h] * scores.softmax(0)

    return reference_rows(q, k, v, weigh, mask=mask, bias=bias)


def _gates(
    x: Tensor, parameters: Mapping[str, Tensor], shared: int, active: int, heads: int
) -> list[Tensor]:
    one, zero = x.new_ones(()), x.new_zeros(())
    first, second = one, one
    if "balance_weight" in parameters:
        first, second = 2 * (parameters["balance_weight"] @ x).softmax(0)
    share = [one] * shared
    if "shared_weight" in parameters:
        share = list(shared * (parameters["shared_weight"] @ x).softmax(0))
    gates = [first * g for g in share]
    if shared < heads:
        probability = (parameters["routed_weight"] @ x).softmax(0)
        order = sorted(range(heads - shared), key=lambda h: -float(probability[h].detach()))
        total = torch.stack([probability[h] for h in order[:active]]).sum()
        taken = {h: second * active * probability[h] / total for h in order[:active]}
        gates += [taken.get(h, zero) for h in range(heads - shared)]
    return gates

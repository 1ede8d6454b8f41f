"""Clipped softmax: attention weights that reach exactly zero at finite scores."""

from __future__ import annotations

import math
from functools import partial

from torch import Tensor

from shared_attention.masks import Mask
from shared_attention.mechanisms.kv_state import continue_attention, empty_state
from shared_attention.primitives.attend import Normaliser, softmax
from shared_attention.primitives.attend_blocks import attend_blocks
from shared_attention.references.clipped_softmax import reference_clipped_softmax
from shared_attention.refusal import accept
from shared_attention.spec import EVERY_SCORE, MechanismSpec, Option


def clipped_softmax_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
    alpha: float = 4.0,
    gamma: float | None = None,
    zeta: float = 1.0,
    length: int | None = None,
) -> Tensor:
    """Attend with clip((ζ - γ) softmax(scale · q kᵀ + bias) + γ, 0, 1) v.

    γ < 0 cuts weights below -γ / (ζ - γ) to zero, so a head can do nothing at finite scores;
    ζ > 1 lets weights reach one. Rows do not sum to one: where attention is spread evenly over
    many keys, all of a row can be zero. γ is -α / T, which keeps its meaning for other lengths.
    The official code takes the longest length of training for T; by default it is the number of
    keys that the query sees, so that padding changes nothing.

    Args:
        q: `[B, H, L, Dk]`.
        k: `[B, Hk, S, Dk]`, Hk dividing H.
        v: `[B, Hv, S, Dv]`, Hv dividing H.
        mask: Any mask.
        bias: Additive, broadcastable to `[B, H, L, S]`; may require gradients.
        scale: Defaults to 1 / sqrt(Dk).
        alpha: γ = -alpha / T; the paper finds 2 to 4 to work.
        gamma: γ itself, at most 0, in place of `alpha`.
        zeta: ζ, at least 1.
        length: T; the number of keys that the query sees by default.

    Returns:
        `[B, H, L, Dv]`; zero for queries that see no key.

    Raises:
        ValueError: The tensors do not fit together, or an option is out of range.

    Source: Bondarenko et al., Quantizable Transformers, NeurIPS 2023 (arXiv:2306.12929), eq. 4.
    """
    accept(SPEC, q, k, v, mask)
    normaliser = clipped(alpha, gamma, zeta, length)
    return attend_blocks(q, k, v, mask=mask, bias=bias, scale=scale, normaliser=normaliser)


def clipped(
    alpha: float = 4.0, gamma: float | None = None, zeta: float = 1.0, length: int | None = None
) -> Normaliser:
    """Return the normaliser clip((ζ - γ) softmax + γ, 0, 1); see `clipped_softmax_attention`.

    Raises:
        ValueError: An option is out of range.
    """
    if alpha < 0:
        raise ValueError(f"clipped_softmax: option alpha got {alpha}, expected at least 0")
    if gamma is not None and gamma > 0:
        raise ValueError(f"clipped_softmax: option gamma got {gamma}, expected at most 0")
    if zeta < 1:
        raise ValueError(f"clipped_softmax: option zeta got {zeta}, expected at least 1")
    if length is not None and length < 1:
        raise ValueError(f"clipped_softmax: option length got {length}, expected at least 1")

    def normaliser(scores: Tensor) -> Tensor:
        low: float | Tensor
        if gamma is not None or length is not None:
            low = -alpha / length if gamma is None and length is not None else gamma or 0.0
        else:
            seen = (scores != -math.inf).sum(-1, keepdim=True).clamp(min=1)
            low = -alpha / seen.to(scores.dtype)
        return (softmax(scores) * (zeta - low) + low).clamp(0, 1)

    return normaliser


SPEC = MechanismSpec(
    name="clipped_softmax",
    family="attention",
    title="Clipped softmax attention",
    paper="Bondarenko et al., Quantizable Transformers: Removing Outliers by Helping Attention "
    "Heads Do Nothing, NeurIPS 2023 (arXiv:2306.12929)",
    equation="out = clip((ζ - γ) softmax(q kᵀ / √d + bias) + γ, 0, 1) v, γ = -α / T",
    complexity="O(L · S · d) time, O((L + S) · d) memory",
    when_to_use="Models to be quantised: exact zeros without ever larger scores.",
    correctness="Equal to the official code; against float64 rows.",
    capabilities=EVERY_SCORE,
    options=(
        Option("alpha", float, 4.0, "γ = -alpha / T"),
        Option("gamma", float, None, "γ itself, at most 0, in place of alpha"),
        Option("zeta", float, 1.0, "ζ, at least 1"),
        Option("length", int, None, "T; None: the number of keys that the query sees"),
    ),
    function=clipped_softmax_attention,
    reference=reference_clipped_softmax,
    init_state=empty_state,
    prefill=partial(continue_attention, clipped_softmax_attention),
    step=partial(continue_attention, clipped_softmax_attention),
)

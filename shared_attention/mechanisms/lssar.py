"""Length-scaled softplus attention with re-weighting: sharp rows at any length."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from shared_attention.masks import Mask
from shared_attention.mechanisms.kv_state import continue_attention, empty_state
from shared_attention.primitives.attend import Normaliser
from shared_attention.primitives.attend_blocks import attend_blocks
from shared_attention.primitives.hidden import blank_masked
from shared_attention.primitives.visible import visible_keys
from shared_attention.references.lssar import reference_lssar
from shared_attention.refusal import accept
from shared_attention.spec import EVERY_SCORE, MechanismSpec, Option

FORMS = ("corrected", "published")
FREE_ROWS = 3
"""Rows of so few keys keep all of them: the offset starts after them."""
ROUNDING = 32
"""Times epsilon: weights this close to their mean are equal up to rounding."""


def lssar_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None = None,
    power: float = 15.0,
    reweight: bool = True,
    form: str = "corrected",
) -> Tensor:
    """Attend with softplus weights, sharpened by a power of their excess over the mean.

    With q and k of unit length and n_i the number of keys that query i sees,
    a_ij = softplus(log D · log n_i · q_i·k_j) / Σ_j and out_i = Σ_j r_ij v_j / Σ_j r_ij with
    r_ij = relu(n_i a_ij - 1)^power; for n_i <= 3, r_ij = (n_i a_ij)^power.

    The published formula gives zero where all keys weigh the same, and its power overflows
    float32 beyond some 370 keys and float16 beyond a few. Here a row is divided by its largest
    excess before the power is taken, which changes no result, and a row without any excess keeps
    its softplus weights. Counting n_i by the mask, and not by the length of the batch, keeps
    padding out of it.

    Args:
        q: `[B, H, L, D]`.
        k: `[B, Hk, S, D]`, Hk dividing H.
        v: `[B, Hv, S, Dv]`, Hv dividing H.
        mask: Any mask.
        power: How much larger weights outgrow smaller ones.
        reweight: False stops at the softplus weights (LSSA).
        form: "published" takes the formula as it is written.

    Returns:
        `[B, H, L, Dv]`; zero for queries that see no key.

    Raises:
        ValueError: The tensors do not fit together, or an option is out of range.

    Source: Gao et al., Softplus Attention with Re-weighting, 2025 (arXiv:2501.13428). There is no
    public code.
    """
    accept(SPEC, q, k, v, mask)
    if power <= 0:
        raise ValueError(f"lssar: option power got {power}, expected above 0")
    if form not in FORMS:
        raise ValueError(f"lssar: option form got {form!r}, expected one of {', '.join(FORMS)}")
    wide = torch.promote_types(q.dtype, torch.float32)
    k, v = blank_masked(k, v, mask, q.shape[2])
    seen = visible_keys(mask, q, k).clamp(min=1)[..., None].to(wide)
    unit_q, unit_k = (F.normalize(x.to(wide), dim=-1) for x in (q, k))
    unit_q = unit_q * (seen.log() * math.log(q.shape[-1]))
    normaliser: Normaliser = _softplus_weights
    if reweight:
        normaliser = _reweighted(power) if form == "corrected" else _published(power)
    out = attend_blocks(unit_q, unit_k, v.to(wide), mask=mask, scale=1.0, normaliser=normaliser)
    return out.to(q.dtype)


def _softplus_weights(scores: Tensor) -> Tensor:
    return _shares(F.softplus(scores))


def _reweighted(power: float) -> Normaliser:
    def normaliser(scores: Tensor) -> Tensor:
        positive = F.softplus(scores)
        seen = _seen(scores)
        mean = positive.sum(-1, keepdim=True) / seen
        excess = torch.relu(positive - mean * (seen > FREE_ROWS))
        top = excess.detach().amax(-1, keepdim=True)
        flat = top <= mean.detach() * (ROUNDING * torch.finfo(scores.dtype).eps)
        sharp = (excess / top.masked_fill(flat, 1)).pow(power)
        return _shares(torch.where(flat, positive, sharp))

    return normaliser


def _published(power: float) -> Normaliser:
    def normaliser(scores: Tensor) -> Tensor:
        seen = _seen(scores)
        excess = _softplus_weights(scores) * seen - (seen > FREE_ROWS).to(scores.dtype)
        return _shares(torch.relu(excess).pow(power))

    return normaliser


def _seen(scores: Tensor) -> Tensor:
    return (scores != -math.inf).sum(-1, keepdim=True).clamp(min=1).to(scores.dtype)


def _shares(weights: Tensor) -> Tensor:
    """Divide each row by its sum; a row of zeros stays one."""
    total = weights.sum(-1, keepdim=True)
    return weights / total.masked_fill(total == 0, 1)


SPEC = MechanismSpec(
    name="lssar",
    family="attention",
    title="Length-scaled softplus attention with re-weighting (LSSAR)",
    paper="Gao et al., Softplus Attention with Re-weighting Boosts Length Extrapolation in Large "
    "Language Models, 2025 (arXiv:2501.13428)",
    equation="a_ij ∝ softplus(log d · log n_i · q̂_i k̂_jᵀ), out_i ∝ Σ_j relu(n_i a_ij - 1)^p v_j",
    complexity="O(L · S · d) time, O((L + S) · d) memory",
    when_to_use="Contexts many times longer than those of training.",
    correctness="Against the paper's formula row by row in float64; there is no official code.",
    capabilities=replace(EVERY_SCORE, scale=False, bias=False, bias_grad=False),
    options=(
        Option("power", float, 15.0, "power of the excess over the mean"),
        Option("reweight", bool, True, "False stops at the softplus weights"),
        Option("form", str, "corrected", "the formula as written, or safe", choices=FORMS),
    ),
    function=lssar_attention,
    reference=reference_lssar,
    init_state=empty_state,
    prefill=partial(continue_attention, lssar_attention),
    step=partial(continue_attention, lssar_attention),
)

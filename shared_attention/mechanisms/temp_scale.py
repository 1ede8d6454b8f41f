"""TempScale: softmax attention at a temperature."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from shared_attention.masks import Mask
from shared_attention.mechanisms.kv_state import continue_attention, empty_state
from shared_attention.mechanisms.rescaled import rescale, rescaled_backends, rescaled_rich
from shared_attention.mechanisms.softmax import softmax_attention
from shared_attention.references.temp_scale import reference_temp_scale
from shared_attention.refusal import accept
from shared_attention.spec import EVERY_SCORE, MechanismSpec, Option


def temp_scale_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
    temperature: float = 0.9,
) -> Tensor:
    """Attend with softmax((scale · q kᵀ + bias) / temperature) v.

    Below 1 rows are sharper, so fewer of the high frequencies of a long text are averaged away
    and embeddings of long texts stay apart. As in the official code it divides the bias too.

    Args:
        q: `[B, H, L, Dk]`.
        k: `[B, Hk, S, Dk]`, Hk dividing H.
        v: `[B, Hv, S, Dv]`, Hv dividing H.
        mask: Any mask.
        bias: Additive, broadcastable to `[B, H, L, S]`; may require gradients.
        scale: Defaults to 1 / sqrt(Dk).
        temperature: Above 0; a trained model takes another one without training.

    Returns:
        `[B, H, L, Dv]`; zero for queries that see no key.

    Raises:
        ValueError: The tensors do not fit together, or `temperature` is not positive.

    Source: Zhou et al., Length-Induced Embedding Collapse, ACL 2025 (arXiv:2410.24200), TempScale.
    """
    accept(SPEC, q, k, v, mask)
    q, bias = rescale(q, bias, _factor(q, k, mask, temperature))
    return softmax_attention(q, k, v, mask=mask, bias=bias, scale=scale)


def _factor(q: Tensor, k: Tensor, mask: Mask | None, temperature: float) -> Tensor:
    if temperature <= 0:
        raise ValueError(f"temp_scale: option temperature got {temperature}, expected above 0")
    return torch.full((), 1 / temperature, dtype=q.dtype, device=q.device)


SPEC = MechanismSpec(
    name="temp_scale",
    family="attention",
    title="Temperature-scaled attention (TempScale)",
    paper="Zhou et al., Length-Induced Embedding Collapse in PLM-based Models, ACL 2025 "
    "(arXiv:2410.24200)",
    equation="out = softmax((q kᵀ / √d + bias) / τ) v",
    complexity="That of softmax attention, which runs it",
    when_to_use="Embedding models whose vectors of long texts lie too close together.",
    correctness="Against softmax of explicitly divided scores in float64, row by row.",
    capabilities=replace(EVERY_SCORE, lse=True),
    options=(Option("temperature", float, 0.9, "what scores are divided by; below 1 sharpens"),),
    function=temp_scale_attention,
    implementations=rescaled_backends(_factor),
    rich=rescaled_rich(_factor),
    reference=reference_temp_scale,
    init_state=empty_state,
    prefill=partial(continue_attention, temp_scale_attention),
    step=partial(continue_attention, temp_scale_attention),
)

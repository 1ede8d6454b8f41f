"""LogN scaling: scores that sharpen as more keys come into view."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from shared_attention.masks import Mask
from shared_attention.mechanisms.kv_state import continue_attention, empty_state
from shared_attention.mechanisms.rescaled import rescale, rescaled_backends, rescaled_rich
from shared_attention.mechanisms.softmax import softmax_attention
from shared_attention.primitives.visible import visible_keys
from shared_attention.references.log_n import reference_log_n
from shared_attention.refusal import accept
from shared_attention.spec import EVERY_SCORE, MechanismSpec, Option


def log_n_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
    base: int = 512,
    at_least: float = 0.0,
) -> Tensor:
    """Attend with softmax(log_base(n_i) · (scale · q_i kᵀ + bias)) v.

    n_i is the number of keys that query i sees, so the entropy of a row stays about the same
    however many there are. Implementations that take n from the length of the batch let padding
    change the result, and under a causal mask let the future do so; here neither is counted.

    Args:
        q: `[B, H, L, Dk]`.
        k: `[B, Hk, S, Dk]`, Hk dividing H.
        v: `[B, Hv, S, Dv]`, Hv dividing H.
        mask: Any mask.
        bias: Additive, broadcastable to `[B, H, L, S]`; may require gradients.
        scale: Defaults to 1 / sqrt(Dk).
        base: Number of keys at which scores are as they were, such as the training length.
        at_least: Smallest factor; 1.0 leaves rows of up to `base` keys as they were.

    Returns:
        `[B, H, L, Dv]`; zero for queries that see no key.

    Raises:
        ValueError: The tensors do not fit together, or `base` is less than 2.

    Source: Li et al., SENER, AAAI 2025 (arXiv:2502.07286), LogN-Scaling, which applies it to the
    row of one global token.
    """
    accept(SPEC, q, k, v, mask)
    q, bias = rescale(q, bias, _factor(q, k, mask, base, at_least))
    return softmax_attention(q, k, v, mask=mask, bias=bias, scale=scale)


def _factor(q: Tensor, k: Tensor, mask: Mask | None, base: int, at_least: float) -> Tensor:
    if base < 2:
        raise ValueError(f"log_n: option base got {base}, expected at least 2")
    wide = torch.promote_types(q.dtype, torch.float32)
    seen = visible_keys(mask, q, k).clamp(min=1)[..., None]
    return (seen.to(wide).log() / math.log(base)).clamp(min=at_least)


SPEC = MechanismSpec(
    name="log_n",
    family="attention",
    title="LogN-scaled attention",
    paper="Li et al., Small Language Model Makes an Effective Long Text Extractor (SENER), "
    "AAAI 2025 (arXiv:2502.07286)",
    equation="out_i = softmax(log_base(n_i) · (q_i kᵀ / √d + bias)) v, n_i keys seen",
    complexity="That of softmax attention, which runs it",
    when_to_use="Inputs longer than those of training, or of very different lengths.",
    correctness="Against softmax of explicitly scaled scores in float64, row by row.",
    capabilities=replace(EVERY_SCORE, lse=True),
    options=(
        Option("base", int, 512, "number of keys at which scores are left as they are"),
        Option("at_least", float, 0.0, "smallest factor; 1.0 never flattens"),
    ),
    function=log_n_attention,
    implementations=rescaled_backends(_factor),
    rich=rescaled_rich(_factor),
    reference=reference_log_n,
    init_state=empty_state,
    prefill=partial(continue_attention, log_n_attention),
    step=partial(continue_attention, log_n_attention),
)

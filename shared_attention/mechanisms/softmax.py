"""Scaled dot-product attention: eager, PyTorch's fused kernels, blocks and FlexAttention."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from shared_attention import masks
from shared_attention.inputs import Inputs, check_inputs
from shared_attention.masks import Mask
from shared_attention.mechanisms import flex, lean
from shared_attention.mechanisms.kv_state import (
    continue_attention,
    empty_state,
)
from shared_attention.primitives.attend import attend, log_sum_exp
from shared_attention.primitives.fused import fused_attention
from shared_attention.primitives.heads import match_heads
from shared_attention.primitives.hidden import blank_hidden
from shared_attention.primitives.local_blocks import local_blocks, worth_blocking
from shared_attention.references.softmax import reference_softmax
from shared_attention.result import AttentionOutput
from shared_attention.spec import EVERY_SCORE, Backend, MechanismSpec


def softmax_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Attend with softmax(scale · q kᵀ + bias) v through PyTorch's fused kernels.

    PyTorch aligns `is_causal` top-left and lets NaN of hidden values through; here causal is
    aligned bottom-right, and keys that no query sees are never read.

    Args:
        q: `[B, H, L, Dk]`.
        k: `[B, Hk, S, Dk]`, Hk dividing H.
        v: `[B, Hv, S, Dv]`, Hv dividing H.
        mask: Any mask.
        bias: Additive, broadcastable to `[B, H, L, S]`; may require gradients.
        scale: Defaults to 1 / sqrt(Dk).

    Returns:
        `[B, H, L, Dv]`; zero for queries that see no key.
    """
    check_inputs(q, k, v, mask, bias)
    return _sdpa(q, k, v, mask=mask, bias=bias, scale=scale)


def _sdpa(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None,
    bias: Tensor | None,
    scale: float | None,
) -> Tensor:
    parts = masks.split(mask)
    simple = parts.window is None and parts.keys is None and parts.rest is None and bias is None
    if k.shape[1] != v.shape[1]:
        if simple and q.shape[2] == 1:
            return attend(q, k, v, scale=scale)[0]
        k, v = match_heads(k, v)
    if simple and (not parts.causal or q.shape[2] in (1, k.shape[2])):
        causal = parts.causal and q.shape[2] > 1
        return fused_attention(q, k, v, causal=causal, scale=scale)
    allowed = None
    if mask is not None:
        allowed = mask.to_dense(q.shape[2], k.shape[2], q.device)
        every_key_is_seen = parts.keys is None and parts.rest is None and q.shape[2] >= k.shape[2]
        if not every_key_is_seen:
            k, v = blank_hidden(k, v, allowed)
    if bias is not None:
        allowed = bias if allowed is None else bias.masked_fill(~allowed, -math.inf)
        allowed = allowed.to(q.dtype).expand(*(1,) * (4 - allowed.dim()), *allowed.shape)
    return fused_attention(q, k, v, mask=allowed, scale=scale)


def eager_softmax_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """As `softmax_attention`, with every score in memory."""
    allowed = check_inputs(q, k, v, mask, bias).dense_mask()
    return attend(q, k, v, mask=allowed, bias=bias, scale=scale)[0]


def rich_softmax_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    need: frozenset[str],
    mask: Mask | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
) -> AttentionOutput:
    """As `softmax_attention`, with the weights and the log-sum-exp."""
    allowed = check_inputs(q, k, v, mask, bias).dense_mask()
    out, weights, scores = attend(q, k, v, mask=allowed, bias=bias, scale=scale)
    return AttentionOutput(
        out,
        weights=weights if "weights" in need else None,
        lse=log_sum_exp(scores) if "lse" in need else None,
    )


def _blocks(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None, **rest: Any) -> Tensor:
    parts = masks.split(rest["mask"])
    assert parts.window is not None
    left, right = parts.window
    right = 0 if parts.causal else right
    assert left is not None and right is not None
    if k.shape[1] != v.shape[1]:
        k, v = match_heads(k, v)
    return local_blocks(q, k, v, left=left, right=right, keys=parts.keys, scale=scale)


def _why_not_blocks(inputs: Inputs) -> list[str]:
    parts = inputs.parts
    reasons = []
    if parts.window is None:
        reasons.append("the mask has no window")
    else:
        left, right = parts.window
        right = 0 if parts.causal else right
        if left is None or right is None:
            reasons.append("the window is unbounded")
        elif not worth_blocking(left, right, inputs.k.shape[2]):
            reasons.append("the window covers more than half of the keys")
    if parts.rest is not None:
        reasons.append("the mask has parts beyond causal, window and key padding")
    if inputs.bias is not None:
        reasons.append("it takes no bias")
    return reasons


SPEC = MechanismSpec(
    name="softmax",
    family="attention",
    title="Scaled dot-product attention",
    paper="Vaswani et al., Attention Is All You Need, NeurIPS 2017 (arXiv:1706.03762)",
    equation="out = softmax(q kᵀ / √d + bias) v",
    complexity="O(L · S · d) time; O(L · d) memory in the fused kernels",
    when_to_use="The default: exact, every mask and bias, fastest up to a few thousand positions.",
    correctness="Against a float64 loop over queries and against torch.nn.MultiheadAttention.",
    capabilities=replace(EVERY_SCORE, lse=True),
    function=softmax_attention,
    implementations=(
        Backend("blocks", _blocks, _why_not_blocks),
        Backend("sdpa", _sdpa),
        Backend("flex", flex.flex_softmax_attention, flex.why_not),
        Backend("eager", eager_softmax_attention),
        Backend("lean", lean.lean_attention, lean.why_not),
    ),
    rich=rich_softmax_attention,
    reference=reference_softmax,
    init_state=empty_state,
    prefill=partial(continue_attention, softmax_attention),
    step=partial(continue_attention, softmax_attention),
)

"""Based's linear attention: the second-order Taylor series of exp in place of softmax."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from shared_attention import masks
from shared_attention.masks import Mask
from shared_attention.primitives.heads import expand_heads
from shared_attention.primitives.hidden import blank_hidden
from shared_attention.primitives.linear_scan import split_chunks, sums_before
from shared_attention.primitives.segments import in_segments
from shared_attention.references.based import reference_based
from shared_attention.refusal import accept
from shared_attention.spec import Capabilities, MechanismSpec

SEGMENT = 1024
"""Positions whose features are in memory at once."""

LEAST_WEIGHT = 0.5
"""1 + s + s²/2 is never less, so a row with a key has at least this normaliser."""


def based_attention(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Mask | None = None, scale: float | None = None
) -> Tensor:
    """Attend with out_i = Σ_j w_ij v_j / Σ_j w_ij, w = 1 + s + s²/2, s = scale q_i·k_j.

    w is an inner product φ(q)·φ(k) with φ(x) = [1, x, x_a², √2 x_a x_b for a < b], the last two
    over √2: D (D + 1) / 2 + D + 1 features, where the official code keeps both x_a x_b and
    x_b x_a. Features carry what lies before a chunk; within it w is formed from the scores.
    The paper projects q and k to 16 channels first; features grow as D².

    Args:
        q: `[B, H, L, Dk]`, Dk small.
        k: `[B, Hk, S, Dk]`, Hk dividing H.
        v: `[B, Hv, S, Dv]`, Hv dividing H.
        mask: `masks.causal()`, aligned bottom-right, `masks.keys(valid)` or both.
        scale: Defaults to 1 / sqrt(Dk).

    Returns:
        `[B, H, L, Dv]`; zero for queries that see no key.

    Raises:
        ValueError: The tensors do not fit together.
        UnsupportedError: The mask has other parts.

    Source: Arora et al., Simple linear attention language models, ICML 2024, section 4.1.
    """
    parts = accept(SPEC, q, k, v, mask)
    q, k, values = _prepared(q, k, v, parts.keys, scale)
    if not parts.causal:
        if k.shape[2] < taylor_features(k[:, :, :1]).shape[-1]:
            weights = _weights(q, k)
            weights = weights if parts.keys is None else weights * parts.keys[:, None, None]
            return _normalised(weights @ values, v.dtype)
        features = _hidden(taylor_features(k), parts.keys)
        return _normalised(taylor_features(q) @ (features.mT @ values), v.dtype)
    skipped, earlier = max(q.shape[2] - k.shape[2], 0), max(k.shape[2] - q.shape[2], 0)
    past, now = (None, None) if parts.keys is None else parts.keys.tensor_split([earlier], 1)
    state = None
    if earlier:
        features = _hidden(taylor_features(k[:, :, :earlier]), past)
        state = features.mT @ values[:, :, :earlier]
    out, _ = _scan(q[:, :, skipped:], k[:, :, earlier:], values[:, :, earlier:], state, now)
    return _normalised(F.pad(out, (0, 0, skipped, 0)), v.dtype)


def empty_taylor(
    batch: int,
    kv_heads: int,
    key_dim: int,
    value_dim: int,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    **options: Any,
) -> Tensor:
    """Return the state of no positions, `[B, Hk, features, Dv + 1]`, at least float32."""
    wide = torch.promote_types(dtype or torch.get_default_dtype(), torch.float32)
    count = (key_dim + 1) * (key_dim + 2) // 2
    return torch.zeros(batch, kv_heads, count, value_dim + 1, dtype=wide, device=device)


def prefill_based(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: Tensor,
    *,
    mask: Mask | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Attend causally from new positions to all seen so far; also the step for one.

    Args:
        q: `[B, H, L, Dk]`, the new positions.
        k: `[B, Hk, L, Dk]`.
        v: `[B, Hv, L, Dv]`.
        state: From `empty_taylor` or an earlier call.
        mask: `masks.keys` of the new positions, or None.
        scale: Defaults to 1 / sqrt(Dk).

    Returns:
        `(out [B, H, L, Dv], state)`.
    """
    valid = accept(SPEC, q, k, v, masks.onwards(mask)).keys
    heads, groups = q.shape[1], q.shape[1] // k.shape[1]
    q, k, values = _prepared(q, k, v, valid, scale)
    out, after = _scan(q, k, values, expand_heads(state, heads), valid)
    return _normalised(out, v.dtype), after[:, ::groups]


def taylor_features(x: Tensor) -> Tensor:
    """Map `[..., D]` to `[..., (D + 1)(D + 2) / 2]` with φ(x)·φ(y) = 1 + x·y + (x·y)²/2."""
    width = x.shape[-1]
    # Columns x_a (x_a / √2, x_{a+1}, ..., x_D): products with a < b count twice.
    scaled = x * 0.5**0.5
    squares = [
        x[..., a : a + 1] * torch.cat([scaled[..., a : a + 1], x[..., a + 1 :]], -1)
        for a in range(width)
    ]
    return torch.cat([torch.ones_like(x[..., :1]), x, *squares], dim=-1)


def _scan(
    q: Tensor, k: Tensor, values: Tensor, state: Tensor | None, valid: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Causal sums of the weighted values, and the state after the last position."""
    if valid is None:
        return in_segments(_scan_segment, (q, k, values), state, SEGMENT)

    def advance(
        q: Tensor, k: Tensor, values: Tensor, valid: Tensor, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        return _scan_segment(q, k, values, state, valid[:, 0])

    return in_segments(advance, (q, k, values, valid[:, None]), state, SEGMENT)


def _scan_segment(
    q: Tensor, k: Tensor, values: Tensor, state: Tensor | None, valid: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    length = q.shape[2]
    if length == 1:
        added = _hidden(taylor_features(k), valid).mT @ values
        state = added if state is None else state + added
        return taylor_features(q) @ state, state
    features = _hidden(taylor_features(k), valid)
    chunk = min(max(64, features.shape[-1] // 2), length)
    before, after = sums_before(split_chunks(features, chunk), split_chunks(values, chunk), state)
    reads = split_chunks(taylor_features(q), chunk) @ before
    q, k, values = (split_chunks(x, chunk) for x in (q, k, values))
    weights = _weights(q, k).tril()
    if valid is not None:
        weights = weights * split_chunks(valid[:, None, :, None].to(q.dtype), chunk).mT
    out = weights @ values + reads
    return out.flatten(2, 3)[:, :, :length], after


def _prepared(
    q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, scale: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Scaled q, k and v with a column of ones, one head each, in at least float32."""
    if valid is not None:
        k, v = blank_hidden(k, v, valid[:, None, None])
    wide = torch.promote_types(q.dtype, torch.float32)
    k, v = (expand_heads(x, q.shape[1]).to(wide) for x in (k, v))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return q.to(wide) * scale, k, torch.cat([v, torch.ones_like(v[..., :1])], -1)


def _weights(q: Tensor, k: Tensor) -> Tensor:
    scores = q @ k.mT
    return 1 + scores + scores.square() / 2


def _hidden(features: Tensor, valid: Tensor | None) -> Tensor:
    """Take out keys that are not valid: the feature 1 of a blank key still counts."""
    return features if valid is None else features.masked_fill(~valid[:, None, :, None], 0)


def _normalised(sums: Tensor, dtype: torch.dtype) -> Tensor:
    return (sums[..., :-1] / sums[..., -1:].clamp_min(LEAST_WEIGHT)).to(dtype)


SPEC = MechanismSpec(
    name="based",
    family="attention",
    title="Taylor linear attention (Based)",
    paper="Arora et al., Simple linear attention language models balance the recall-throughput "
    "tradeoff, ICML 2024 (arXiv:2402.18668)",
    equation="out_i = Σ_j w_ij v_j / Σ_j w_ij, w = 1 + s + s²/2, s = q_i k_jᵀ / √d",
    complexity="O(L · d² · Dv) time; constant memory per step when streaming",
    when_to_use="Long sequences and streams with recall; narrow keys (16), a window beside it.",
    correctness="Against the matrix of weights in float64; equal to the official code.",
    capabilities=Capabilities(
        causal="exact",
        cross=True,
        key_padding=True,
        grouped_heads=True,
        state=True,
        weights=True,
    ),
    function=based_attention,
    reference=reference_based,
    init_state=empty_taylor,
    prefill=prefill_based,
    step=prefill_based,
)

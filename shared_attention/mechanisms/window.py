"""Sliding-window attention in blocks: linear in length, trains on CPU."""

from __future__ import annotations

from torch import Tensor

from shared_attention import masks
from shared_attention.inputs import Inputs
from shared_attention.kernels import blocks as kernels
from shared_attention.kernels import support
from shared_attention.masks import Mask, Parts
from shared_attention.mechanisms.kv_state import (
    KeyValueState,
    continue_attention,
    empty_state,
)
from shared_attention.mechanisms.softmax import softmax_attention
from shared_attention.primitives.heads import expand_heads, match_heads
from shared_attention.primitives.local_blocks import local_blocks, worth_blocking
from shared_attention.references.softmax import reference_window
from shared_attention.refusal import accept
from shared_attention.spec import Backend, Capabilities, MechanismSpec, Option


def window_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None = None,
    scale: float | None = None,
    left: int = 64,
    right: int = 64,
) -> Tensor:
    """Attend with softmax to the keys around each query.

    Runs in blocks (see `local_blocks`) unless the window covers more than half of the keys,
    where one masked attention is faster.

    Args:
        q: `[B, H, L, Dk]`.
        k: `[B, Hk, S, Dk]`, Hk dividing H; positions are aligned bottom-right.
        v: `[B, Hv, S, Dv]`, Hv dividing H.
        mask: `masks.causal()`, which sets `right` to 0, `masks.keys(valid)`, `masks.window`,
            which narrows the window, or several of them.
        scale: Defaults to 1 / sqrt(Dk).
        left: Earlier keys that are seen.
        right: Later keys that are seen.

    Returns:
        `[B, H, L, Dv]`; zero for queries that see no key.

    Raises:
        UnsupportedError: The mask has other parts.
    """
    parts = accept(SPEC, q, k, v, mask)
    left, right = _sides(parts, left, right)
    if not worth_blocking(left, right, k.shape[2]):
        band = _band(left, right, q.shape[2], k.shape[2])
        band = band if parts.keys is None else band & masks.keys(parts.keys)
        return softmax_attention(q, k, v, mask=band, scale=scale)
    if k.shape[1] != v.shape[1]:
        k, v = match_heads(k, v)
    return local_blocks(q, k, v, left=left, right=right, keys=parts.keys, scale=scale)


def prefill_window(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: KeyValueState,
    *,
    mask: Mask | None = None,
    scale: float | None = None,
    left: int = 64,
    right: int = 64,
) -> tuple[Tensor, KeyValueState]:
    """Attend causally from new positions to the `left` before each; the state is of that size.

    Args:
        q: `[B, H, L, Dk]`, the new positions.
        k: `[B, Hk, L, Dk]`.
        v: `[B, Hv, L, Dv]`.
        state: From `empty_state` or an earlier call.
        mask: `masks.keys` of the new positions, or None.
        scale: Defaults to 1 / sqrt(Dk).
        left: Earlier keys that are seen.
        right: Not used: streaming is causal.

    Returns:
        `(out [B, H, L, Dv], state)`.
    """
    out, state = continue_attention(
        window_attention, q, k, v, state, mask=mask, scale=scale, left=left
    )
    return out, state.last(left)


def _band(left: int, right: int, length: int, count: int) -> Mask:
    """Return the window as a mask, unbounded on a side that it covers."""
    return masks.window(left if left < count - 1 else None, right if right < length - 1 else None)


def _sides(parts: Parts, left: int, right: int) -> tuple[int, int]:
    """Check the window's options and narrow them to what the mask shows."""
    for name, side in (("left", left), ("right", right)):
        if side < 0:
            raise ValueError(f"window: option {name} got {side}, expected at least 0")
    if parts.window is not None:
        left = left if parts.window[0] is None else min(left, parts.window[0])
        right = right if parts.window[1] is None else min(right, parts.window[1])
    return left, 0 if parts.causal else right


def _triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None = None,
    scale: float | None = None,
    left: int = 64,
    right: int = 64,
) -> Tensor:
    parts = accept(SPEC, q, k, v, mask)
    left, right = _sides(parts, left, right)
    k, v = (expand_heads(x, q.shape[1]) for x in (k, v))
    return kernels.window(q, k, v, left=left, right=right, keys=parts.keys, scale=scale)


def _why_not_triton(inputs: Inputs) -> list[str]:
    return support.why_not(inputs)


SPEC = MechanismSpec(
    name="window",
    family="attention",
    title="Sliding-window attention",
    paper="Beltagy et al., Longformer, 2020 (arXiv:2004.05150), its local attention",
    equation="out_i = Σ_{i-left <= j <= i+right} softmax_j(q_i k_jᵀ / √d) v_j",
    complexity="O(L · (left + right) · d) time and memory",
    when_to_use="Long sequences whose relations are local; exact within the window.",
    correctness="Against softmax attention with the same dense mask in float64.",
    capabilities=Capabilities(
        causal="exact",
        cross=True,
        key_padding=True,
        window=True,
        grouped_heads=True,
        state=True,
        weights=True,
    ),
    options=(
        Option("left", int, 64, "earlier keys that each query sees"),
        Option("right", int, 64, "later keys that each query sees; 0 under a causal mask"),
    ),
    function=window_attention,
    implementations=(
        Backend("eager", window_attention),
        Backend("triton", _triton, _why_not_triton),
    ),
    reference=reference_window,
    init_state=empty_state,
    prefill=prefill_window,
    step=prefill_window,
)

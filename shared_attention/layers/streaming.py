"""Continuing a layer's attention from its cache."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from shared_attention import masks
from shared_attention.errors import UnsupportedError, unsupported
from shared_attention.layers.cache import KeyValueCache
from shared_attention.masks import Mask
from shared_attention.spec import MechanismSpec


def continue_stream(
    spec: MechanismSpec,
    mechanism: nn.Module,
    q: Tensor | None,
    k: Tensor,
    v: Tensor,
    mask: Mask | None,
    cache: KeyValueCache,
    **inputs: Tensor,
) -> Tensor:
    """Attend causally from new positions to all that the cache has seen, and update it.

    Args:
        spec: The layer's mechanism.
        mechanism: Its module.
        q: `[B, H, L, D]`, None for family recurrent.
        k: `[B, Hk, L, D]`.
        v: `[B, Hk, L, D]`.
        mask: None or `masks.causal()`, with `masks.keys(valid)` of the new positions.
        cache: What was seen before.
        **inputs: What the mechanism's `prefill` takes besides.

    Returns:
        `[B, H, L, D]`.

    Raises:
        UnsupportedError: The mechanism has no state, or the mask is of another kind.
    """
    if not spec.supports("state"):
        raise unsupported(spec.name, "state", "a cache")
    padding = _padding(mask)
    stream: Any = mechanism
    batch, kv_heads, _, key_dim = k.shape
    place = {"dtype": k.dtype, "device": k.device}
    if q is None:
        state = stream.init_state(batch, **place) if cache.state is None else cache.state
        out, cache.state = stream.prefill(k, v, state, mask=padding)
    else:
        state = cache.state
        if state is None:
            state = stream.init_state(batch, kv_heads, key_dim, v.shape[3], **place)
        out, cache.state = stream.prefill(q, k, v, state, mask=padding, **inputs)
    cache.length += k.shape[2]
    return out


def _padding(mask: Mask | None) -> Mask | None:
    parts = masks.split(mask)
    if parts.window is not None or parts.rest is not None:
        raise UnsupportedError(
            "MultiHeadAttention: with a cache, mask takes masks.causal() and masks.keys(valid) "
            "of the new positions only"
        )
    return None if parts.keys is None else masks.keys(parts.keys)

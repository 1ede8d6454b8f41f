"""Attention to the first positions and to a window of recent ones, in constant memory."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from shared_attention import masks
from shared_attention.masks import Mask, new_positions
from shared_attention.mechanisms.kv_state import KeyValueState, empty_state
from shared_attention.mechanisms.softmax import softmax_attention
from shared_attention.primitives.heads import expand_heads
from shared_attention.primitives.local_blocks import Beside, local_blocks, worth_blocking
from shared_attention.references.sink_window import reference_sink_window
from shared_attention.refusal import accept
from shared_attention.spec import Capabilities, MechanismSpec, Option


class Sinks(NamedTuple):
    """The first real positions of a sequence."""

    k: Tensor
    """`[B, Hk, n, Dk]`."""
    v: Tensor
    """`[B, Hv, n, Dv]`."""
    position: Tensor
    """int64 `[B, n]`, counted from the first of the positions that are kept beside them."""
    real: Tensor
    """bool `[B, n]`; False where there has been no such position yet."""


class SinkState(NamedTuple):
    """What streaming keeps: the sinks and the window, whatever came before."""

    sinks: Sinks
    window: KeyValueState


def sink_window_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None = None,
    scale: float | None = None,
    sinks: int = 4,
    left: int = 64,
    right: int = 64,
) -> Tensor:
    """Attend with softmax to the first keys and to those around each query.

    One softmax runs over both: the sinks take the mass that heads without anything to say put
    on the first positions, so that dropping the keys in between leaves the rest as it was.

    The published system rotates keys by their place in the cache; positions are the caller's
    here (see `layers.positions`). With padding the sinks are the first real keys.

    Args:
        q: `[B, H, L, Dk]`.
        k: `[B, Hk, S, Dk]`, Hk dividing H; positions are aligned bottom-right.
        v: `[B, Hv, S, Dv]`, Hv dividing H.
        mask: `masks.causal()`, which sets `right` to 0 and hides sinks that are still to come,
            `masks.keys(valid)` or both.
        scale: Defaults to 1 / sqrt(Dk).
        sinks: First keys that every query sees.
        left: Earlier keys that are seen.
        right: Later keys that are seen.

    Returns:
        `[B, H, L, Dv]`; zero for queries that see no key.

    Raises:
        ValueError: The tensors do not fit together, or an option is negative.
        UnsupportedError: The mask has other parts.

    Source: Xiao et al., Efficient Streaming Language Models with Attention Sinks, ICLR 2024.
    """
    parts = accept(SPEC, q, k, v, mask)
    _check_options(sinks, left, right)
    right = 0 if parts.causal else right
    valid = parts.keys
    if valid is not None:
        k, v = (x.masked_fill(~valid[:, None, :, None], 0) for x in (k, v))
    first = _first(k, v, valid, sinks)
    return _attend(q, k, v, valid, first, left, right, parts.causal, scale)


def empty_sinks(
    batch: int,
    kv_heads: int,
    key_dim: int,
    value_dim: int,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    sinks: int = 4,
    **options: Any,
) -> SinkState:
    """Return the state of no positions."""
    k = torch.zeros(batch, kv_heads, sinks, key_dim, dtype=dtype, device=device)
    v = torch.zeros(batch, kv_heads, sinks, value_dim, dtype=dtype, device=device)
    position = torch.zeros(batch, sinks, dtype=torch.int64, device=device)
    window = empty_state(batch, kv_heads, key_dim, value_dim, dtype=dtype, device=device)
    return SinkState(Sinks(k, v, position, position.bool()), window)


def prefill_sink_window(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: SinkState,
    *,
    mask: Mask | None = None,
    scale: float | None = None,
    sinks: int = 4,
    left: int = 64,
    right: int = 64,
) -> tuple[Tensor, SinkState]:
    """Attend causally from new positions to the sinks and to the `left` before each.

    Args:
        q: `[B, H, L, Dk]`, the new positions.
        k: `[B, Hk, L, Dk]`.
        v: `[B, Hv, L, Dv]`.
        state: From `empty_sinks` or an earlier call; of at most `sinks + left` positions.
        mask: `masks.keys` of the new positions, or None.
        scale: Defaults to 1 / sqrt(Dk).
        sinks: First keys that every query sees.
        left: Earlier keys that are seen.
        right: Not used: streaming is causal.

    Returns:
        `(out [B, H, L, Dv], state)`.

    Raises:
        ValueError: The mask is not of keys.
    """
    new = new_positions(mask)
    if new is not None:
        k, v = (x.masked_fill(~new[:, None, :, None], 0) for x in (k, v))
    window = state.window.extended(k, v, mask)
    first = _with_new(state.sinks, k, v, new, window.k.shape[2] - k.shape[2])
    out = _attend(q, window.k, window.v, window.valid, first, left, 0, True, scale)
    dropped = max(window.k.shape[2] - left, 0)
    first = first._replace(position=first.position - dropped)
    return out, SinkState(first, window.last(left))


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    valid: Tensor | None,
    sinks: Sinks,
    left: int,
    right: int,
    causal: bool,
    scale: float | None,
) -> Tensor:
    """Attend to the window, and to those sinks that lie outside of it."""
    length, count = q.shape[2], k.shape[2]
    query = torch.arange(length, device=q.device)[:, None] + (count - length)
    outside = sinks.position[:, None] < query - left
    if not causal:
        outside = outside | (sinks.position[:, None] > query + right)
    beside = Beside(sinks.k, sinks.v, outside & sinks.real[:, None])
    if not worth_blocking(left, right, count):
        band = masks.window(left, right).to_dense(length, count, q.device)
        band = (band if valid is None else band & valid[:, None, None]).expand(len(q), -1, -1, -1)
        also = beside.mask[:, None].expand(len(q), -1, -1, -1)
        k, v = torch.cat([k, beside.k], dim=2), torch.cat([v, beside.v], dim=2)
        seen = masks.dense(torch.cat([band, also], dim=-1))
        return softmax_attention(q, k, v, mask=seen, scale=scale)
    if k.shape[1] != v.shape[1]:
        k, v = expand_heads(k, q.shape[1]), expand_heads(v, q.shape[1])
        beside = beside._replace(
            k=expand_heads(beside.k, q.shape[1]), v=expand_heads(beside.v, q.shape[1])
        )
    return local_blocks(q, k, v, left=left, right=right, keys=valid, scale=scale, beside=beside)


def _first(k: Tensor, v: Tensor, valid: Tensor | None, sinks: int) -> Sinks:
    """The first `sinks` real keys, fewer where there are not as many."""
    if valid is None:
        position = torch.arange(min(sinks, k.shape[2]), device=k.device)[None]
        chosen = slice(0, sinks)
        return Sinks(k[:, :, chosen], v[:, :, chosen], position, torch.ones_like(position).bool())
    position = (~valid).to(torch.uint8).argsort(dim=1, stable=True)[:, :sinks]
    k, v = (_pick(x, position) for x in (k, v))
    return Sinks(k, v, position, valid.gather(1, position))


def _with_new(old: Sinks, k: Tensor, v: Tensor, valid: Tensor | None, at: int) -> Sinks:
    """Fill the places that are still free with the first real ones of new keys at `at`."""
    places, count = old.real.shape[1], k.shape[2]
    new = torch.ones_like(old.real[:, :1]).expand(-1, count) if valid is None else valid
    fresh = _first(k, v, new, places)
    position = torch.cat([old.position, fresh.position + at], dim=1)
    real = torch.cat([old.real, fresh.real], dim=1)
    order = (~real).to(torch.uint8).argsort(dim=1, stable=True)[:, :places]
    k, v = (_pick(torch.cat(x, dim=2), order) for x in ((old.k, fresh.k), (old.v, fresh.v)))
    return Sinks(k, v, position.gather(1, order), real.gather(1, order))


def _pick(x: Tensor, position: Tensor) -> Tensor:
    return torch.take_along_dim(x, position[:, None, :, None], dim=2)


def _check_options(sinks: int, left: int, right: int) -> None:
    for name, value in (("sinks", sinks), ("left", left), ("right", right)):
        if value < 0:
            raise ValueError(f"sink_window: option {name} got {value}, expected at least 0")


SPEC = MechanismSpec(
    name="sink_window",
    family="attention",
    title="Sliding window with attention sinks",
    paper="Xiao et al., Efficient Streaming Language Models with Attention Sinks, ICLR 2024 "
    "(arXiv:2309.17453); sinks as found by Yu et al., ICML 2024 (arXiv:2406.15765)",
    equation="out_i = Σ_j softmax_j(q_i k_jᵀ / √d) v_j over j < sinks and i-left <= j <= i+right",
    complexity="O(L · (sinks + left + right) · d) time and memory; constant memory when streaming",
    when_to_use="Endless streams, and long causal sequences of which the recent part matters.",
    correctness="Against softmax attention with the same dense mask in float64.",
    capabilities=Capabilities(
        causal="exact",
        cross=True,
        key_padding=True,
        grouped_heads=True,
        state=True,
        weights=True,
    ),
    options=(
        Option("sinks", int, 4, "first keys that every query sees"),
        Option("left", int, 64, "earlier keys that each query sees"),
        Option("right", int, 64, "later keys that each query sees; 0 under a causal mask"),
    ),
    function=sink_window_attention,
    reference=reference_sink_window,
    init_state=empty_sinks,
    prefill=prefill_sink_window,
    step=prefill_sink_window,
)

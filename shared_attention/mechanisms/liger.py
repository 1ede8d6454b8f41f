"""Liger attention: gated linear attention with gates from the keys, half and half with a window."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from shared_attention import masks
from shared_attention.masks import Mask
from shared_attention.mechanisms.gated_linear import empty_memory, gated_linear_attention
from shared_attention.mechanisms.kv_state import KeyValueState, empty_state
from shared_attention.mechanisms.window import prefill_window, window_attention
from shared_attention.primitives.hidden import blank_hidden
from shared_attention.references.liger import reference_liger
from shared_attention.refusal import accept
from shared_attention.spec import Capabilities, MechanismSpec, Option


class LigerState(NamedTuple):
    """What Liger attention continues from; its size does not grow."""

    memory: Tensor
    """State of the gated linear attention `[B, Hk, Dk, Dv]`, at least float32."""
    recent: KeyValueState
    """The last `window` keys and values."""


def liger_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None = None,
    scale: float | None = None,
    window: int = 64,
    gate_normaliser: float = 16.0,
) -> Tensor:
    """Average gated linear attention without parameters of its own and windowed softmax.

    out = ½ GLA(softmax(q), softmax(k), v, α) + ½ SWA(q, k, v), α = σ(k)^(1/16), softmax over
    channels, GLA unscaled. The gates come from the keys' own projection, so a pretrained model
    becomes recurrent without new weights. The paper pools that projection; the official code
    pools it to as many channels as it has, which is the identity, and so it is here.

    The official code gives rotary positions to the window alone, and rounds to bfloat16; here
    q and k come as they are and nothing is rounded. It multiplies v by the padding mask but
    lets padding decay the memory; here padded positions leave no trace.

    Args:
        q: `[B, H, L, Dk]`.
        k: `[B, Hk, L, Dk]`, Hk dividing H.
        v: `[B, Hv, L, Dv]`, Hv dividing H.
        mask: `masks.causal()`, with `masks.keys(valid)` where there is padding.
        scale: Score scale of the window; None is 1 / sqrt(Dk).
        window: Earlier keys that the window sees.
        gate_normaliser: Root taken of the gates; larger remembers longer.

    Returns:
        `[B, H, L, Dv]`; zero for queries that see no key.

    Raises:
        ValueError: The tensors do not fit together, or an option is out of range.
        UnsupportedError: The mask is of another kind.

    Source: Lan et al., Liger, ICML 2025, section 3.
    """
    valid = accept(SPEC, q, k, v, mask).keys
    _check(window, gate_normaliser)
    near = window_attention(q, k, v, mask=mask, scale=scale, left=window)
    far, _ = _recurrent(q, k, v, None, valid, gate_normaliser)
    return 0.5 * (near + far)


def empty_liger(
    batch: int,
    kv_heads: int,
    key_dim: int,
    value_dim: int,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    window: int = 64,
    gate_normaliser: float = 16.0,
) -> LigerState:
    """Return the state of no positions."""
    sizes = (batch, kv_heads, key_dim, value_dim)
    return LigerState(
        empty_memory(*sizes, dtype=dtype, device=device),
        empty_state(*sizes, dtype=dtype, device=device),
    )


def prefill_liger(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: LigerState,
    *,
    mask: Mask | None = None,
    scale: float | None = None,
    window: int = 64,
    gate_normaliser: float = 16.0,
) -> tuple[Tensor, LigerState]:
    """Continue Liger attention over new positions; also the step for one position.

    Args:
        q: New queries `[B, H, L, Dk]`.
        k: New keys `[B, Hk, L, Dk]`.
        v: New values `[B, Hv, L, Dv]`.
        state: From `empty_liger` or an earlier call.
        mask: None, or `masks.keys(valid)` of the new positions.
        scale: As for `liger_attention`.
        window: As for `liger_attention`.
        gate_normaliser: As for `liger_attention`.

    Returns:
        `(out [B, H, L, Dv], state)`.
    """
    valid = accept(SPEC, q, k, v, masks.onwards(mask)).keys
    near, recent = prefill_window(q, k, v, state.recent, mask=mask, scale=scale, left=window)
    far, memory = _recurrent(q, k, v, state.memory, valid, gate_normaliser)
    return 0.5 * (near + far), LigerState(memory, recent)


def _recurrent(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: Tensor | None,
    valid: Tensor | None,
    gate_normaliser: float,
) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(q.dtype, torch.float32)
    if valid is not None:
        k, v = blank_hidden(k, v, valid[:, None, None])
    q, k = q.to(wide), k.to(wide)
    log_decay = F.logsigmoid(k) / gate_normaliser
    out, state = gated_linear_attention(
        q.softmax(-1), k.softmax(-1), v.to(wide), log_decay, state, valid=valid, scale=1.0
    )
    return out.to(v.dtype), state


def _check(window: int, gate_normaliser: float) -> None:
    if window < 0:
        raise ValueError(f"liger: option window got {window}, expected at least 0")
    if gate_normaliser <= 0:
        raise ValueError(
            f"liger: option gate_normaliser got {gate_normaliser}, expected more than 0"
        )


SPEC = MechanismSpec(
    name="liger",
    family="attention",
    title="Liger attention",
    paper="Lan et al., Liger: Linearizing Large Language Models to Gated Recurrent Structures, "
    "ICML 2025 (arXiv:2503.01496)",
    equation="out = ½ GLA(softmax(q), softmax(k), v, σ(k)^(1/16)) + ½ SWA(q, k, v)",
    complexity="O(L · (D · Dv + window · D)) time; constant memory per step when streaming",
    when_to_use="Making a pretrained causal model recurrent without new weights.",
    correctness="Against the recurrence and masked softmax in float64; equal to the equations of "
    "the official code, which needs a GPU.",
    capabilities=Capabilities(
        causal="always", key_padding=True, grouped_heads=True, state=True, weights=True
    ),
    options=(
        Option("window", int, 64, "earlier keys that the softmax window sees"),
        Option("gate_normaliser", float, 16.0, "root taken of the gates"),
    ),
    function=liger_attention,
    reference=reference_liger,
    init_state=empty_liger,
    prefill=prefill_liger,
    step=prefill_liger,
)

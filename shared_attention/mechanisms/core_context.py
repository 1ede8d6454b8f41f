"""Core context aware attention: near positions as they are, distant groups as one core token."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from shared_attention.masks import Mask, new_positions
from shared_attention.mechanisms.core_context_state import (
    CoreContextState,
    advance,
    empty_core_context,
    pool_groups,
)
from shared_attention.primitives.heads import expand_heads
from shared_attention.primitives.local_blocks import Beside, local_blocks
from shared_attention.primitives.ranks import packed, put_back, real_first, take
from shared_attention.primitives.segments import in_segments
from shared_attention.primitives.topk import gather
from shared_attention.references.core_context import reference_core_context
from shared_attention.refusal import accept
from shared_attention.spec import Capabilities, MechanismSpec, Option


def core_context_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None = None,
    scale: float | None = None,
    group: int = 16,
    local: int = 256,
) -> Tensor:
    """Attend to near positions and to one core token for each distant group, in one softmax.

    Group n of `group` positions is pooled with the attention of its last query,

        k̄_n = Σ_{j in n} a_nj k_j, v̄_n = Σ_{j in n} a_nj v_j, a_n = softmax_j(scale q_last k_jᵀ).

    When i positions have been seen, query i attends to the last `local + (i - local) % group`
    of them; what comes before is a whole number of groups and is seen as their core tokens.

    The paper pools the layer's input x and projects the result to keys and values. Projections
    are linear and a_n sums to one, so pooling k and v, per head, is the same, which makes this a
    function of q, k and v. It is not the same where keys are rotated before they are pooled, on
    which the paper's text is silent; no official code exists.

    Without a causal mask the same holds towards later positions, where an incomplete last
    group counts too. With padding, groups are counted in real positions.

    Args:
        q: `[B, H, L, Dk]`.
        k: `[B, Hk, L, Dk]`, Hk dividing H; core tokens belong to query heads.
        v: `[B, Hv, L, Dv]`, Hv dividing H.
        mask: `masks.causal()`, `masks.keys(valid)` or both; padded keys are padded queries.
        scale: Defaults to 1 / sqrt(Dk).
        group: Positions per core token.
        local: Positions that are seen as they are, at least.

    Returns:
        `[B, H, L, Dv]`; zero for padded queries.

    Raises:
        ValueError: The tensors do not fit together, or an option is out of range.
        UnsupportedError: The mask has other parts, or the lengths differ.

    Source: Chen et al., Core Context Aware Transformers, ICML 2025, section 4.
    """
    parts = accept(SPEC, q, k, v, mask)
    _check_options(group, local)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    heads, length = q.shape[1:3]
    valid = parts.keys
    real = torch.full((1,), length, device=q.device) if valid is None else valid.sum(1)
    if valid is not None:
        q, k, v = take(q, real_first(valid)), packed(k, valid), packed(v, valid)
    k, v = expand_heads(k, heads), expand_heads(v, heads)
    position = torch.arange(length, device=q.device)
    first = (position + 1 - local).clamp(min=0) // group * group
    last = position if parts.causal else -(-(position + local) // group) * group - 1
    core_k, core_v = _core_tokens(q, k, v, real, group, scale)
    start = torch.arange(core_k.shape[2], device=q.device) * group
    outside = start < first[:, None]
    if not parts.causal:
        outside = outside | (start > last[:, None])
    near = min(local + group - 1, length - 1)
    out = local_blocks(
        q,
        k,
        v,
        left=near,
        right=0 if parts.causal else near,
        keys=position < real[:, None],
        scale=scale,
        limits=(first, last),
        beside=Beside(core_k, core_v, outside & (start < real[:, None, None])),
    )
    if valid is None:
        return out
    return put_back(out, real_first(valid)).masked_fill(~valid[:, None, :, None], 0)


def prefill_core_context(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: CoreContextState,
    *,
    mask: Mask | None = None,
    scale: float | None = None,
    group: int = 16,
    local: int = 256,
) -> tuple[Tensor, CoreContextState]:
    """Attend causally from new positions to the near ones and to core tokens.

    A position that is no longer near is kept as a part of its core token only.

    Args:
        q: `[B, H, L, Dk]`, the new positions.
        k: `[B, Hk, L, Dk]`.
        v: `[B, Hv, L, Dv]`.
        state: From `empty_core_context` with the same options, or an earlier call.
        mask: `masks.keys` of the new positions, or None.
        scale: Defaults to 1 / sqrt(Dk).
        group: Positions per core token.
        local: Positions that are seen as they are, at least.

    Returns:
        `(out [B, H, L, Dv], state)`.

    Raises:
        ValueError: The mask is of another kind, or an option is out of range.
    """
    _check_options(group, local)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    valid = new_positions(mask)
    inputs = (q, k, v) if valid is None else (q, k, v, valid[:, None])

    def step(*parts: Any) -> tuple[Tensor, CoreContextState]:
        q, k, v, *rest, state = parts
        return advance(q, k, v, state, rest[0][:, 0] if rest else None, group, local, scale)

    return in_segments(step, inputs, state, max(local, group))


def _check_options(group: int, local: int) -> None:
    for name, value in (("group", group), ("local", local)):
        if value < 1:
            raise ValueError(f"core_context: option {name} got {value}, expected at least 1")


def _core_tokens(
    q: Tensor, k: Tensor, v: Tensor, real: Tensor, group: int, scale: float
) -> tuple[Tensor, Tensor]:
    """Pool keys and values `[B, H, L, D]` to `[B, H, N, D]`; `real [B or 1]` of them count."""
    batch, heads, length, _ = q.shape
    spare = -length % group
    k, v = (F.pad(x, (0, 0, 0, spare)).unflatten(2, (-1, group)) for x in (k, v))
    start = torch.arange(k.shape[2], device=q.device) * group
    end = torch.minimum(start + group, real[:, None]) - 1
    query = gather(q, end.clamp(min=0)[:, None].expand(batch, heads, -1))
    member = start[:, None] + torch.arange(group, device=q.device)
    hidden = (member >= real[:, None, None])[:, None]
    return pool_groups(query, k, v, hidden, scale)


SPEC = MechanismSpec(
    name="core_context",
    family="attention",
    title="Core context aware attention",
    paper="Chen et al., Core Context Aware Transformers for Long Context Language Modeling, "
    "ICML 2025 (arXiv:2412.12465)",
    equation="out_i = softmax(q_i [k̄_1 .. k̄_m, k_{gm+1} .. k_i]ᵀ / √d) "
    "[v̄_1 .. v̄_m, v_{gm+1} .. v_i], m = ⌊(i - local) / g⌋",
    complexity="O(L · (local + L / group) · d): quadratic divided by the group size",
    when_to_use="Long causal sequences where distant context is redundant but must stay in reach.",
    correctness="No official code; against the paper's equations query by query in float64.",
    capabilities=Capabilities(
        causal="exact", key_padding=True, grouped_heads=True, state=True, weights=True
    ),
    options=(
        Option("group", int, 16, "positions per core token"),
        Option("local", int, 256, "positions seen as they are, at least"),
    ),
    function=core_context_attention,
    reference=reference_core_context,
    init_state=empty_core_context,
    prefill=prefill_core_context,
    step=prefill_core_context,
)

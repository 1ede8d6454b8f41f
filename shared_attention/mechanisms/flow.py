"""Flow-Attention: attention as conserved flow from sources (keys) to sinks (queries)."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from shared_attention.masks import Mask, onwards
from shared_attention.mechanisms.paired import query_padding, same_lengths
from shared_attention.primitives.linear_scan import linear_scan
from shared_attention.primitives.segments import in_segments
from shared_attention.references.flow import reference_flow
from shared_attention.refusal import accept
from shared_attention.spec import Capabilities, MechanismSpec, Option

EPS = 1e-6


def flow_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None = None,
    self_attention: bool | None = None,
) -> Tensor:
    """Let sources compete for, and sinks allocate, a conserved flow; linear in the lengths.

    With φ = sigmoid: sink i takes in I_i = φ(q_i)·Σφ(k_j), source j gives out
    O_j = φ(k_j)·Σφ(q_i); with the other side's flow fixed to one they become
    Î_i = φ(q_i)·Σφ(k_j)/O_j and Ô_j = φ(k_j)·Σφ(q_i)/I_i. Then
    out_i = sigmoid(Î_i L/S) · φ(q_i)/I_i · Σ_j φ(k_j) (softmax(Ô)_j S v_j).

    The causal form replaces each sum by the sum so far and L, S by the number of positions so
    far. Source j competes among sources 0..j, not among all that sink i sees, so no output
    depends on a later position. It is computed in chunks; the published code holds a D x Dv
    matrix for every position.

    Ô is clamped to [-1, 1] and 1e-6 is added to both factors of each flow, as in the official
    core code. Padded positions carry no flow and are not counted, which the official code,
    having no masks, leaves open.

    Args:
        q: Queries `[B, H, L, D]`.
        k: Keys `[B, H, S, D]`.
        v: Values `[B, H, S, Dv]`.
        mask: `masks.causal()` (L = S only), `masks.keys(valid)` or both.
        self_attention: Whether padded keys are padded queries too; None: when L equals S.

    Returns:
        `[B, H, L, Dv]`; zero where nothing is visible.

    Raises:
        ValueError: The tensors do not fit together.
        UnsupportedError: The mask is of another kind, or causal with L unlike S.

    Source: Wu et al., Flowformer, ICML 2022, eq. 4-8.
    """
    parts = accept(SPEC, q, k, v, mask)
    if parts.causal:
        same_lengths("flow", "a causal mask", q, k)
        state = empty_flow(q.shape[0], q.shape[1], q.shape[3], v.shape[3], device=q.device)
        return _stream(q, k, v, state, parts.keys)[0]
    queries = query_padding(parts.keys, q, k, self_attention)
    sinks, sources, values = _features(q, k, v, parts.keys)
    counted = sinks if queries is None else _hide(sinks, queries)
    incoming = _flow(sinks, sources.sum(2, keepdim=True))
    outgoing = _flow(sources, counted.sum(2, keepdim=True))
    in_refined = _flow(sinks, (sources / outgoing).sum(2, keepdim=True))
    out_refined = _flow(sources, (counted / incoming).sum(2, keepdim=True)).clamp(-1, 1)
    if parts.keys is not None:
        out_refined = out_refined.masked_fill(~parts.keys[:, None, :, None], -torch.inf)
        out_refined = out_refined.masked_fill(~parts.keys.any(1)[:, None, None, None], 0)
    sink_count, source_count = _count(queries, q), _count(parts.keys, k)
    competition = out_refined.softmax(2) * source_count
    allocation = torch.sigmoid(in_refined * (sink_count / source_count.clamp(min=1)))
    out = (sinks / incoming) @ (sources.mT @ (values * competition)) * allocation
    return out.to(q.dtype)


class FlowState(NamedTuple):
    """Sums over the positions so far that causal Flow-Attention continues from."""

    keys: Tensor
    """Σ φ(k) `[B, H, 1, D]`."""
    queries: Tensor
    """Σ φ(q) `[B, H, 1, D]`."""
    key_flow: Tensor
    """Σ φ(k) / O `[B, H, 1, D]`."""
    query_flow: Tensor
    """Σ φ(q) / I `[B, H, 1, D]`."""
    rivals: Tensor
    """Σ exp(Ô) `[B, H, 1, 1]`."""
    flow: Tensor
    """Σ φ(k) vᵀ weighted by competition `[B, H, D, Dv]`."""
    positions: Tensor
    """Number of real positions, int64 `[B, 1, 1, 1]`."""


def empty_flow(
    batch: int,
    kv_heads: int,
    key_dim: int,
    value_dim: int,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    **options: Any,
) -> FlowState:
    """Return the state of no positions, in at least float32."""
    wide = torch.promote_types(dtype or torch.get_default_dtype(), torch.float32)
    row = torch.zeros(batch, kv_heads, 1, key_dim, dtype=wide, device=device)
    return FlowState(
        keys=row,
        queries=row,
        key_flow=row,
        query_flow=row,
        rivals=row.new_zeros(batch, kv_heads, 1, 1),
        flow=row.new_zeros(batch, kv_heads, key_dim, value_dim),
        positions=torch.zeros(batch, 1, 1, 1, dtype=torch.int64, device=device),
    )


def prefill_flow(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: FlowState,
    *,
    mask: Mask | None = None,
    self_attention: bool | None = None,
) -> tuple[Tensor, FlowState]:
    """Continue causal Flow-Attention over new positions; also the step for one position.

    Args:
        q: New queries `[B, H, L, D]`.
        k: New keys `[B, H, L, D]`.
        v: New values `[B, H, L, Dv]`.
        state: State of the positions so far.
        mask: None, or `masks.keys(valid)` of the new positions.
        self_attention: As for `flow_attention`; causal flow is always self-attention.

    Returns:
        Output `[B, H, L, Dv]` and the state after the last position.

    Raises:
        ValueError: The tensors do not fit together, or the mask is not of keys.
        UnsupportedError: The numbers of new queries and keys differ.
    """
    valid = accept(SPEC, q, k, v, onwards(mask)).keys
    same_lengths("flow", "prefill", q, k)
    return _stream(q, k, v, state, valid)


def _stream(
    q: Tensor, k: Tensor, v: Tensor, state: FlowState, valid: Tensor | None
) -> tuple[Tensor, FlowState]:
    if valid is None:
        return in_segments(partial(_causal, valid=None), (q, k, v), state)

    def advance(
        q: Tensor, k: Tensor, v: Tensor, valid: Tensor, state: FlowState
    ) -> tuple[Tensor, FlowState]:
        return _causal(q, k, v, state, valid[:, 0])

    return in_segments(advance, (q, k, v, valid[:, None]), state)


def _causal(
    q: Tensor, k: Tensor, v: Tensor, state: FlowState, valid: Tensor | None
) -> tuple[Tensor, FlowState]:
    sinks, sources, values = _features(q, k, v, valid)
    counted = sinks if valid is None else _hide(sinks, valid)
    present = torch.ones_like(sinks[:, :1, :, :1]) if valid is None else valid[:, None, :, None]
    positions = present.long().cumsum(2) + state.positions
    n = positions.clamp(min=1)
    keys = sources.cumsum(2) + state.keys
    queries = counted.cumsum(2) + state.queries
    incoming, outgoing = _flow(sinks, keys), _flow(sources, queries)
    key_flow = (sources / outgoing * n).cumsum(2) + state.key_flow
    query_flow = (counted / incoming * n).cumsum(2) + state.query_flow
    rival = (_flow(sources, query_flow) / n).clamp(-1, 1).exp() * present
    rivals = rival.cumsum(2) + state.rivals
    competition = rival / rivals.clamp(min=EPS) * n
    flow_in, flow = linear_scan(sinks / incoming, sources, values * competition, state.flow)
    out = flow_in * torch.sigmoid(_flow(sinks, key_flow) / n)
    return out.to(q.dtype), FlowState(
        keys=_last(keys),
        queries=_last(queries),
        key_flow=_last(key_flow),
        query_flow=_last(query_flow),
        rivals=_last(rivals),
        flow=flow,
        positions=_last(positions),
    )


def _last(x: Tensor) -> Tensor:
    """The last position, without keeping the memory of the others."""
    return x[:, :, -1:].clone()


def _features(
    q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """φ(q), φ(k) and v in at least float32, zero where a key is not valid."""
    wide = torch.promote_types(q.dtype, torch.float32)
    q, k, v = q.to(wide), k.to(wide), v.to(wide)
    if valid is None:
        return q.sigmoid(), k.sigmoid(), v
    return q.sigmoid(), _hide(_hide(k, valid).sigmoid(), valid), _hide(v, valid)


def _hide(x: Tensor, valid: Tensor) -> Tensor:
    return x.masked_fill(~valid[:, None, :, None], 0)


def _flow(side: Tensor, total: Tensor) -> Tensor:
    """Flow of each position of one side into the total of the other, `[B, H, L, 1]`."""
    return ((side + EPS) * (total + EPS)).sum(-1, keepdim=True)


def _count(valid: Tensor | None, x: Tensor) -> Tensor:
    """Number of real positions, `[B or 1, 1, 1, 1]`."""
    if valid is None:
        return torch.full((1, 1, 1, 1), x.shape[2], device=x.device)
    return valid.sum(1)[:, None, None, None]


SPEC = MechanismSpec(
    name="flow",
    family="attention",
    title="Flow-Attention",
    paper="Wu et al., Flowformer: Linearizing Transformers with Conservation Flows, ICML 2022 "
    "(arXiv 2202.06258)",
    equation="out_i = σ(Î_i L/S) φ(q_i)/I_i Σ_j φ(k_j)ᵀ softmax(Ô)_j S v_j, φ = sigmoid",
    complexity="O((L + S) D Dv); a step of the causal form costs O(D Dv) whatever came before",
    when_to_use="Long series and classification; streaming where the causal form is enough.",
    correctness="Equal to the official code, causal form included; to a position-by-position "
    "float64 reference with padding.",
    capabilities=Capabilities(
        causal="exact", cross=True, key_padding=True, scale=False, state=True, weights=True
    ),
    options=(
        Option(
            "self_attention",
            bool,
            None,
            "whether padded keys are padded queries too; None: when L equals S",
        ),
    ),
    function=flow_attention,
    reference=reference_flow,
    init_state=empty_flow,
    prefill=prefill_flow,
    step=prefill_flow,
)

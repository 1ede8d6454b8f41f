"""Linear attention with the feature map elu(x) + 1."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from shared_attention.inputs import Inputs
from shared_attention.kernels import scan as kernels
from shared_attention.kernels import support
from shared_attention.masks import Mask, new_positions
from shared_attention.primitives.heads import expand_heads
from shared_attention.primitives.linear_scan import linear_scan
from shared_attention.references.linear import reference_linear
from shared_attention.refusal import accept
from shared_attention.spec import Backend, Capabilities, MechanismSpec

SMALLEST_SUM = 1e-20
"""Floor of the normaliser, below which the keys' features have all but underflowed."""


def scan_in_chunks(
    q: Tensor, k: Tensor, values: Tensor, state: Tensor, dtype: torch.dtype
) -> Tensor:
    """Causal sums of features `[B, H, L, D]` and values with their ones, divided: eager."""
    return _normalised(linear_scan(q, k, values, state)[0], dtype)


def linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None = None,
    scan: Callable[..., Tensor] = scan_in_chunks,
) -> Tensor:
    """Attend with out_i = Σ_j φ(q_i)·φ(k_j) v_j / Σ_j φ(q_i)·φ(k_j), φ(x) = elu(x) + 1.

    Causal attention runs in chunks with a running sum between them (the paper's equation 18),
    cross lengths aligned bottom-right. Sums are kept in float32 for half-precision inputs.

    Args:
        q: `[B, H, L, Dk]`.
        k: `[B, Hk, S, Dk]`, Hk dividing H.
        v: `[B, Hv, S, Dv]`, Hv dividing H.
        mask: `masks.causal()`, `masks.keys(valid)` or both.
        scan: The causal sums, `scan_in_chunks` or the Triton kernels.

    Returns:
        `[B, H, L, Dv]`; zero for queries that see no key.

    Raises:
        UnsupportedError: The mask has other parts.
    """
    parts = accept(SPEC, q, k, v, mask)
    q_features, k_features, values = _features(q, k, v, parts.keys)
    if not parts.causal:
        return _normalised(q_features @ (k_features.transpose(-2, -1) @ values), q.dtype)
    length, count = q.shape[2], k.shape[2]
    if length > count:
        k_features, values = (F.pad(x, (0, 0, length - count, 0)) for x in (k_features, values))
    earlier = max(count - length, 0)
    state = k_features[:, :, :earlier].transpose(-2, -1) @ values[:, :, :earlier]
    return scan(q_features, k_features[:, :, earlier:], values[:, :, earlier:], state, q.dtype)


def _scan_in_kernels(
    q: Tensor, k: Tensor, values: Tensor, state: Tensor, dtype: torch.dtype
) -> Tensor:
    q, k, v = (x.to(dtype) for x in (q, k * values[..., -1:], values[..., :-1]))
    return kernels.scan(q, k, v, state=state, normalised=True)[0]


def _triton(q: Tensor, k: Tensor, v: Tensor, *, mask: Mask | None = None) -> Tensor:
    return linear_attention(q, k, v, mask=mask, scan=_scan_in_kernels)


def _why_not_triton(inputs: Inputs) -> list[str]:
    reasons = support.why_not(inputs)
    if not inputs.parts.causal:
        reasons.append("without a causal mask it is two products of matrices, which need no kernel")
    return reasons


def empty_sums(
    batch: int,
    kv_heads: int,
    key_dim: int,
    value_dim: int,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Return the state of no positions, `[B, Hk, Dk, Dv + 1]`, at least float32."""
    wide = torch.promote_types(dtype or torch.get_default_dtype(), torch.float32)
    return torch.zeros(batch, kv_heads, key_dim, value_dim + 1, dtype=wide, device=device)


def prefill_linear(
    q: Tensor, k: Tensor, v: Tensor, state: Tensor, *, mask: Mask | None = None
) -> tuple[Tensor, Tensor]:
    """Attend causally from new positions to all seen so far; the state's size is constant.

    Args:
        q: `[B, H, L, Dk]`, the new positions.
        k: `[B, Hk, L, Dk]`.
        v: `[B, Hv, L, Dv]`.
        state: From `empty_sums` or an earlier call.
        mask: `masks.keys` of the new positions, or None.

    Returns:
        `(out [B, H, L, Dv], state)`.
    """
    q_features, k_features, values = _features(q, k, v, new_positions(mask))
    groups = q.shape[1] // state.shape[1]
    out, sums = linear_scan(q_features, k_features, values, expand_heads(state, q.shape[1]))
    return _normalised(out, q.dtype), sums[:, ::groups]


def _features(
    q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return φ(q), φ(k) and the values with a column of ones, keys that are not valid zeroed.

    Queries below zero are shifted up first: it scales a whole row of φ(q), which the normaliser
    takes out again, and keeps the row from underflowing.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    q, k, v = q.to(wide), expand_heads(k, q.shape[1]).to(wide), expand_heads(v, q.shape[1]).to(wide)
    ones = torch.ones_like(v[..., :1])
    values = torch.cat([v, ones], dim=-1)
    if valid is not None:
        hidden = ~valid[:, None, :, None]
        k, values = k.masked_fill(hidden, 0), values.masked_fill(hidden, 0)
    q = q - q.detach().amax(dim=-1, keepdim=True).clamp(max=0)
    return _elu_plus_one(q), _elu_plus_one(k), values


def _elu_plus_one(x: Tensor) -> Tensor:
    """Return elu(x) + 1 without expm1, which takes ten times as long as exp on processors."""
    positive = x.relu()
    return (x - positive).exp() + positive


def _normalised(sums: Tensor, dtype: torch.dtype) -> Tensor:
    return (sums[..., :-1] / sums[..., -1:].clamp_min(SMALLEST_SUM)).to(dtype)


SPEC = MechanismSpec(
    name="linear",
    family="attention",
    title="Linear attention",
    paper="Katharopoulos et al., Transformers are RNNs, ICML 2020 (arXiv:2006.16236)",
    equation="out_i = φ(q_i) Σ_j φ(k_j)ᵀ v_j / φ(q_i) Σ_j φ(k_j)ᵀ, φ(x) = elu(x) + 1",
    complexity="O(L · d²) time; constant memory per step when streaming",
    when_to_use="Long sequences and streaming, where an average over all positions is enough.",
    correctness="Against the quadratic form in float64.",
    capabilities=Capabilities(
        causal="exact",
        cross=True,
        key_padding=True,
        grouped_heads=True,
        scale=False,
        state=True,
        weights=True,
    ),
    function=linear_attention,
    implementations=(
        Backend("eager", linear_attention),
        Backend("triton", _triton, _why_not_triton),
    ),
    reference=reference_linear,
    init_state=empty_sums,
    prefill=prefill_linear,
    step=prefill_linear,
)

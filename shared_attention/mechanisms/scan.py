"""Aaren: softmax attention of a learned constant query, as a scan."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from shared_attention.errors import UnsupportedError
from shared_attention.inputs import check_inputs
from shared_attention.masks import Mask, Parts
from shared_attention.primitives.softmax_scan import SoftmaxSums, combine, scan_sums
from shared_attention.references.scan import reference_scan
from shared_attention.refusal import refuse_parts
from shared_attention.spec import Capabilities, MechanismSpec, Option


def scan_attention(
    query: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None = None,
    scale: float | None = None,
    half_life: float | None = None,
) -> Tensor:
    """Attend with one constant query to every prefix.

    out_t = Σ_{j<=t} exp(s_j) v_j / Σ_{j<=t} exp(s_j), s_j = query · k_j · scale, by a parallel
    scan in O(L) memory and logarithmic depth. Causal by construction.

    Args:
        query: `[H, D]`, the same at every position of every sample.
        k: Keys `[B, H, L, D]`.
        v: Values `[B, H, L, Dv]`.
        mask: None, or `masks.keys(valid)`.
        scale: Score scale; None is 1 / sqrt(D).
        half_life: Positions after which a key counts half as much, so that the average follows
            an endless stream; None (the paper's) never forgets.

    Returns:
        `[B, H, L, Dv]`; zero before the first valid key.

    Raises:
        ValueError: The tensors do not fit together.
        UnsupportedError: The mask is of another kind.

    Source: Feng et al., Attention as an RNN, 2024, section 3.
    """
    _check(query, k, v, mask)
    state = empty_sums(k.shape[0], k.shape[1], v.shape[-1], dtype=k.dtype, device=k.device)
    return prefill_scan(query, k, v, state, mask=mask, scale=scale, half_life=half_life)[0]


def empty_sums(
    batch: int,
    heads: int,
    value_dim: int,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> SoftmaxSums:
    """Return the state of no positions, `m, w [B, H]` and `u [B, H, Dv]`, in at least float32."""
    wide = torch.promote_types(dtype or torch.get_default_dtype(), torch.float32)
    zeros = torch.zeros(batch, heads, value_dim, dtype=wide, device=device)
    return SoftmaxSums(torch.full_like(zeros[..., 0], -torch.inf), zeros[..., 0].clone(), zeros)


def prefill_scan(
    query: Tensor,
    k: Tensor,
    v: Tensor,
    state: SoftmaxSums,
    *,
    mask: Mask | None = None,
    scale: float | None = None,
    half_life: float | None = None,
) -> tuple[Tensor, SoftmaxSums]:
    """Continue `scan_attention` over new positions, in parallel.

    Args:
        query: `[H, D]`.
        k: New keys `[B, H, L, D]`.
        v: New values `[B, H, L, Dv]`.
        state: State of the positions so far.
        mask: None, or `masks.keys(valid)` of the new positions.
        scale: Score scale; None is 1 / sqrt(D).
        half_life: As for `scan_attention`.

    Returns:
        Output `[B, H, L, Dv]` and the state after the last position.

    Raises:
        ValueError: The tensors do not fit together.
        UnsupportedError: The mask is of another kind.
    """
    fresh = _leaves(query, k, v, mask, scale)
    if half_life is not None:
        loss = math.log(2) / half_life
        state = state._replace(m=state.m - loss)
        age = torch.arange(k.shape[2], device=k.device, dtype=fresh.m.dtype)
        fresh = fresh._replace(m=fresh.m + loss * age)
    if k.shape[2] == 1:
        after = combine(state, SoftmaxSums(*(x.squeeze(2) for x in fresh)))
        return after.output()[:, :, None].to(v.dtype), after
    inside = scan_sums(SoftmaxSums(*(x.flatten(0, 1) for x in fresh)))
    inside = SoftmaxSums(*(x.unflatten(0, k.shape[:2]) for x in inside))
    sums = combine(SoftmaxSums(*(x.unsqueeze(2) for x in state)), inside)
    after = SoftmaxSums(*(x[:, :, -1].clone() for x in sums))
    if half_life is not None:
        after = after._replace(m=after.m - loss * (k.shape[2] - 1))
    return sums.output().to(v.dtype), after


def _leaves(
    query: Tensor, k: Tensor, v: Tensor, mask: Mask | None, scale: float | None
) -> SoftmaxSums:
    """Sums over each position alone: `m, w [B, H, L]`, `u [B, H, L, Dv]`."""
    valid = _check(query, k, v, mask).keys
    wide = torch.promote_types(k.dtype, torch.float32)
    query, k, v = query.to(wide), k.to(wide), v.to(wide)
    if valid is not None:
        hidden = ~valid[:, None, :, None]
        k, v = k.masked_fill(hidden, 0), v.masked_fill(hidden, 0)
    scale = 1 / math.sqrt(k.shape[-1]) if scale is None else scale
    scores = (k @ (query * scale)[..., None]).squeeze(-1)
    weight = torch.ones_like(scores)
    if valid is not None:
        scores = scores.masked_fill(~valid[:, None], -torch.inf)
        weight = weight * valid[:, None]
    return SoftmaxSums(scores, weight, v)


def _check(query: Tensor, k: Tensor, v: Tensor, mask: Mask | None) -> Parts:
    if k.dim() != 4 or not k.is_floating_point():
        raise ValueError(
            f"scan: k has shape {list(k.shape)} of {k.dtype}, "
            "expected floats [batch, heads, length, dim]"
        )
    if query.shape != (k.shape[1], k.shape[3]):
        raise ValueError(
            f"scan: query has shape {list(query.shape)}, "
            f"expected [heads, dim] = {[k.shape[1], k.shape[3]]}"
        )
    parts = check_inputs(k, k, v, mask).parts
    refuse_parts(SPEC, parts)
    if v.shape[1] != k.shape[1]:
        raise UnsupportedError(f"scan: v has {v.shape[1]} heads, expected the {k.shape[1]} of k")
    return parts


class ScanAttention(nn.Module):
    """`scan_attention` with a learned query: trains in parallel, streams in constant memory.

    Raises:
        ValueError: `half_life` is not positive.
    """

    def __init__(self, num_heads: int, head_dim: int, half_life: float | None = None) -> None:
        super().__init__()
        if half_life is not None and not half_life > 0:
            raise ValueError(f"scan: option half_life got {half_life}, expected more than 0")
        self.query = nn.Parameter(torch.randn(num_heads, head_dim))
        self.half_life = half_life

    def forward(self, k: Tensor, v: Tensor, mask: Mask | None = None) -> Tensor:
        """Attend to every prefix; shapes and errors are those of `scan_attention`."""
        return scan_attention(self.query, k, v, mask=mask, half_life=self.half_life)

    def init_state(
        self,
        batch: int,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> SoftmaxSums:
        """Return the state of no positions, for values as wide as the query."""
        heads, width = self.query.shape
        return empty_sums(
            batch,
            heads,
            width,
            dtype=dtype or self.query.dtype,
            device=device or self.query.device,
        )

    def prefill(
        self, k: Tensor, v: Tensor, state: SoftmaxSums, mask: Mask | None = None
    ) -> tuple[Tensor, SoftmaxSums]:
        """Continue over new positions; see `prefill_scan`."""
        return prefill_scan(self.query, k, v, state, mask=mask, half_life=self.half_life)

    def step(
        self, k: Tensor, v: Tensor, state: SoftmaxSums, mask: Mask | None = None
    ) -> tuple[Tensor, SoftmaxSums]:
        """Continue over one position, `k, v [B, H, 1, D]`, at a cost that never grows."""
        return prefill_scan(self.query, k, v, state, mask=mask, half_life=self.half_life)


SPEC = MechanismSpec(
    name="scan",
    family="recurrent",
    title="Attention as an RNN (Aaren)",
    paper="Feng et al., Attention as an RNN, 2024 (arXiv 2405.13956)",
    equation="out_t = Σ_{j<=t} exp(s_j) v_j / Σ_{j<=t} exp(s_j), s_j = query · k_j / √D",
    complexity="O(L D) work and memory, depth O(ln L); a step costs O(D) whatever came before",
    when_to_use="Streams: constant memory, one new observation at a time.",
    correctness="Equal to softmax attention of the same constant query over each prefix.",
    capabilities=Capabilities(causal="exact", key_padding=True, state=True),
    options=(
        Option("half_life", float, None, "positions after which a key counts half; None never"),
    ),
    module=ScanAttention,
    reference=reference_scan,
)

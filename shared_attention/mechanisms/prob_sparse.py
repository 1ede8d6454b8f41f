"""ProbSparse attention: only the queries with the most peaked scores attend."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from shared_attention.errors import UnsupportedError
from shared_attention.masks import Mask
from shared_attention.mechanisms.paired import query_padding, same_lengths
from shared_attention.mechanisms.prob_sparse_state import empty_prob_sparse, prefill_prob_sparse
from shared_attention.mechanisms.query_choice import (
    attend_chosen,
    attend_leading,
    later_keys,
    measure_of,
    seen_keys,
    top_queries,
)
from shared_attention.mechanisms.query_sparsity import WORD, draw, sparsity
from shared_attention.references.prob_sparse import reference_prob_sparse
from shared_attention.refusal import accept
from shared_attention.spec import Capabilities, MechanismSpec, Option


def prob_sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None = None,
    scale: float | None = None,
    generator: torch.Generator | None = None,
    factor: int = 5,
    seed: int = 0,
    form: Literal["corrected", "published"] = "corrected",
    self_attention: bool | None = None,
) -> Tensor:
    """Attend with the u most peaked queries; the others get the mean of what they may see.

    Each query scores U = factor * ceil(ln S) sampled keys; its sparsity is
    M = max - sum / S over them. The u = factor * ceil(ln L) queries of largest M attend.

    What differs from the published code, and is restored by `form="published"`:

    - It draws keys from the global random state, also in evaluation. Here the draw is a
      function of (seed, query, sample), so it is the same in every call and batch slot.
    - Its causal form scores future keys and ranks a query among later ones, so earlier rows
      change with the future. Here a query scores only keys it may see, and attends when it is
      among the top `factor` of the queries up to itself. In a stationary series that is
      factor * (1 + ln(L / factor)) queries, the paper's budget, more of them early than late.
    - Its causal fallback is the running sum of v; here the running mean.
    - It reads padded keys; `published` therefore refuses a key mask.

    Args:
        q: Queries `[B, H, L, D]`.
        k: Keys `[B, H, S, D]`.
        v: Values `[B, H, S, Dv]`.
        mask: `masks.causal()`, `masks.keys(valid)` or both.
        scale: Score scale; None is 1 / sqrt(D).
        generator: Draws the seed of the sampled keys, in place of `seed`.
        factor: Sampling factor c of the paper.
        seed: Seed of the sampled keys.
        form: `corrected`, or `published` for comparison with the official code.
        self_attention: Whether padded keys are padded queries too; None: when L equals S.

    Returns:
        `[B, H, L, Dv]`. Rows that may see nothing are zero.

    Raises:
        ValueError: The tensors do not fit together, or an option is out of range.
        UnsupportedError: The mask is of another kind.

    Source: Zhou et al., Informer, AAAI 2021, eq. 3-4, algorithm 1.
    """
    parts = accept(SPEC, q, k, v, mask)
    if factor < 1:
        raise ValueError(f"prob_sparse: factor got {factor}, expected at least 1")
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    if form == "published":
        if parts.keys is not None:
            raise UnsupportedError("prob_sparse: form='published' cannot honour a key mask")
        if parts.causal:
            same_lengths("prob_sparse", "form='published' with a causal mask", q, k)
        return _published(q, k, v, parts.causal, scale, factor, seed, generator)
    if form != "corrected":
        raise ValueError(f"prob_sparse: form got {form!r}, expected 'corrected' or 'published'")
    queries = query_padding(parts.keys, q, k, self_attention)
    if parts.keys is not None:
        hidden = ~parts.keys[:, None, :, None]
        k, v = k.masked_fill(hidden, 0), v.masked_fill(hidden, 0)
    rows = _rows(queries, q.shape[2], q.device)
    seen = seen_keys(parts.keys, parts.causal, q.shape[2], k.shape[2], q.device)
    measure = measure_of(q, k, parts, rows, seen, factor, _seed(seed, generator, q.device))
    if queries is not None:
        measure = measure.masked_fill(~queries[:, None], -torch.inf)
    if parts.causal:
        fallback = _running_mean(v, seen, q.shape[2])
        none = measure.new_full((*measure.shape[:2], factor), -torch.inf)
        return attend_leading(q, k, v, fallback, measure, seen, none, parts.keys, scale)[0]
    chosen, kept = top_queries(measure, queries, factor)
    fallback = v.sum(2, keepdim=True) / seen.clamp(min=1)[:, None, :, None]
    visible = None if parts.keys is None else parts.keys[:, None, None]
    return attend_chosen(q, k, v, fallback.to(v.dtype), chosen, kept, visible, scale)


def _seed(seed: int, generator: torch.Generator | None, device: torch.device) -> int | Tensor:
    if generator is None:
        return seed & WORD
    return torch.randint(WORD, (), generator=generator, device=generator.device).to(device)


def _rows(queries: Tensor | None, length: int, device: torch.device) -> Tensor:
    """Number of each query among the real ones, `[B or 1, L]`."""
    if queries is None:
        return torch.arange(length, device=device)[None]
    return (queries.cumsum(-1) - 1).clamp(min=0)


def _running_mean(v: Tensor, seen: Tensor, length: int) -> Tensor:
    """Mean of the values up to each query's position, `[B, H, L, Dv]`."""
    total = v.cumsum(2, dtype=torch.promote_types(v.dtype, torch.float32))
    total = F.pad(total, (0, 0, max(0, length - v.shape[2]), 0))[:, :, -length:]
    return (total / seen.clamp(min=1)[:, None, :, None]).to(v.dtype)


def _published(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool,
    scale: float,
    factor: int,
    seed: int,
    generator: torch.Generator | None,
) -> Tensor:
    """The official computation, its leak and its running sum included."""
    length, key_length = q.shape[2], k.shape[2]
    if generator is None:
        generator = torch.Generator().manual_seed(seed)
    size = (length, draw(key_length, factor))
    index = torch.randint(key_length, size, generator=generator, device=generator.device)
    seen = torch.full((1, 1), key_length, device=q.device)
    chosen, _ = top_queries(sparsity(q, k, index.to(q.device)[None], None, seen), None, factor)
    if not causal:
        return attend_chosen(q, k, v, v.mean(2, keepdim=True), chosen, None, None, scale)
    earlier = ~later_keys(chosen, length, key_length)
    return attend_chosen(q, k, v, v.cumsum(2), chosen, None, earlier, scale)


SPEC = MechanismSpec(
    name="prob_sparse",
    family="attention",
    title="ProbSparse attention",
    paper="Zhou et al., Informer: Beyond Efficient Transformer for Long Sequence Time-Series "
    "Forecasting, AAAI 2021 (arXiv 2012.07436)",
    equation="out_i = softmax(q_i Kᵀ / √D) V for the u queries of largest "
    "M_i = max_j s_ij - Σ_j s_ij / S over sampled keys j; mean(V) for the others",
    complexity="O(L U D) with U = 5 ⌈ln S⌉; up to S = 40 U all L S scores are computed in "
    "cache-sized blocks, which is faster",
    when_to_use="Long inputs of which few positions need attention, as in Informer's encoder.",
    correctness="Equal to the official code for the same sampled keys in its published form; "
    "to a row-by-row float64 reference in the corrected form.",
    capabilities=Capabilities(
        causal="exact", cross=True, key_padding=True, state=True, weights=True, stochastic=True
    ),
    options=(
        Option("factor", int, 5, "sampling factor c: u = c ⌈ln L⌉ queries attend"),
        Option("seed", int, 0, "seed of the sampled keys"),
        Option(
            "form",
            str,
            "corrected",
            "published: the official code's leaking causal form and running sum",
            ("corrected", "published"),
        ),
        Option(
            "self_attention",
            bool,
            None,
            "whether padded keys are padded queries too; None: when L equals S",
        ),
    ),
    function=prob_sparse_attention,
    reference=reference_prob_sparse,
    init_state=empty_prob_sparse,
    prefill=prefill_prob_sparse,
    step=prefill_prob_sparse,
)

"""ProbSparse attention: only the queries with the most peaked scores attend."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from shared_attention.errors import UnsupportedError
from shared_attention.masks import Mask, Parts
from shared_attention.mechanisms.paired import query_padding, same_lengths
from shared_attention.mechanisms.query_sparsity import (
    WORD,
    draw,
    leading,
    random_keys,
    sparsity,
    top_count,
)
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
    seen = _seen(parts.keys, parts.causal, q.shape[2], k.shape[2], q.device)
    measure = _measure(q, k, parts, rows, seen, factor, _seed(seed, generator, q.device))
    if queries is not None:
        measure = measure.masked_fill(~queries[:, None], -torch.inf)
    visible = None if parts.keys is None else parts.keys[:, None, None]
    kept: Tensor | None
    if parts.causal:
        chosen, kept = _leading(measure, seen, factor)
        earlier = ~_later(chosen, q.shape[2], k.shape[2])
        visible = earlier if visible is None else visible & earlier
        fallback = _running_mean(v, seen, q.shape[2])
    else:
        chosen, kept = _top(measure, queries, factor)
        fallback = v.sum(2, keepdim=True) / seen.clamp(min=1)[:, None, :, None]
    return _attend(q, k, v, fallback.to(v.dtype), chosen, kept, visible, scale)


def _seed(seed: int, generator: torch.Generator | None, device: torch.device) -> int | Tensor:
    if generator is None:
        return seed & WORD
    return torch.randint(WORD, (), generator=generator, device=generator.device).to(device)


def _rows(queries: Tensor | None, length: int, device: torch.device) -> Tensor:
    """Number of each query among the real ones, `[B or 1, L]`."""
    if queries is None:
        return torch.arange(length, device=device)[None]
    return (queries.cumsum(-1) - 1).clamp(min=0)


def _seen(
    keys: Tensor | None, causal: bool, length: int, key_length: int, device: torch.device
) -> Tensor:
    """Number of keys each query may see, `[B or 1, L or 1]`."""
    if not causal:
        return torch.full((1, 1), key_length, device=device) if keys is None else keys.sum(-1, True)
    last = torch.arange(length, device=device) + key_length - length
    if keys is None:
        return (last + 1).clamp(min=0)[None]
    return F.pad(keys.cumsum(-1), (1, 0))[:, (last + 1).clamp(min=0)]


def _measure(
    q: Tensor,
    k: Tensor,
    parts: Parts,
    rows: Tensor,
    seen: Tensor,
    factor: int,
    seed: int | Tensor,
) -> Tensor:
    """Sparsity of each query over U keys drawn among those it may see, `[B, H, L]`."""
    samples = draw(k.shape[2], factor)
    index = random_keys(rows, seen, parts.keys, samples, seed)
    active = None
    if parts.causal or parts.keys is not None:
        active = torch.arange(samples, device=q.device) < top_count(seen, factor)[..., None]
        active = active.expand(index.shape)
    return sparsity(q, k, index, active, seen, causal=parts.causal)


def _top(measure: Tensor, queries: Tensor | None, factor: int) -> tuple[Tensor, Tensor | None]:
    """The u queries of largest measure `[B, H, u]`, and which of them attend (None: all)."""
    chosen = measure.topk(draw(measure.shape[-1], factor), dim=-1).indices
    if queries is None:
        return chosen, None
    allowed = top_count(queries.sum(-1), factor)[:, None, None]
    return chosen, (torch.arange(chosen.shape[-1], device=chosen.device) < allowed)


def _leading(measure: Tensor, seen: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """The queries that are among the top `factor` so far, and which of them attend."""
    attends = leading(measure, factor) & (seen > 0)[:, None]
    width = attends.shape[-1]
    if not torch.compiler.is_compiling():
        width = int(attends.sum(-1).max())
    kept, chosen = attends.to(torch.uint8).topk(width, dim=-1)
    return chosen, kept.bool()


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    fallback: Tensor,
    chosen: Tensor,
    kept: Tensor | None,
    visible: Tensor | None,
    scale: float,
) -> Tensor:
    """Softmax attention of the chosen queries where kept, `fallback` elsewhere."""
    picked = q.gather(2, chosen[..., None].expand(-1, -1, -1, q.shape[3]))
    attended = F.scaled_dot_product_attention(picked, k, v, attn_mask=visible, scale=scale)
    fallback = fallback.expand(-1, -1, q.shape[2], -1)
    index = chosen[..., None].expand_as(attended)
    if kept is not None:
        attended = torch.where(kept[..., None], attended, fallback.gather(2, index))
    return fallback.scatter(2, index, attended)


def _running_mean(v: Tensor, seen: Tensor, length: int) -> Tensor:
    """Mean of the values up to each query's position, `[B, H, L, Dv]`."""
    total = v.cumsum(2, dtype=torch.promote_types(v.dtype, torch.float32))
    total = F.pad(total, (0, 0, max(0, length - v.shape[2]), 0))[:, :, -length:]
    return (total / seen.clamp(min=1)[:, None, :, None]).to(v.dtype)


def _later(chosen: Tensor, length: int, key_length: int) -> Tensor:
    """Keys after the chosen queries' own positions, bool `[B, H, C, S]`."""
    keys = torch.arange(key_length, device=chosen.device)
    return keys > chosen[..., None] + (key_length - length)


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
    chosen, _ = _top(sparsity(q, k, index.to(q.device)[None], None, seen), None, factor)
    if not causal:
        return _attend(q, k, v, v.mean(2, keepdim=True), chosen, None, None, scale)
    earlier = ~_later(chosen, length, key_length)
    return _attend(q, k, v, v.cumsum(2), chosen, None, earlier, scale)


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
        causal="exact", cross=True, key_padding=True, weights=True, stochastic=True
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
)

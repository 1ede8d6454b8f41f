"""Which queries of ProbSparse attention attend, and what the others get."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from shared_attention.masks import Parts
from shared_attention.mechanisms.query_sparsity import (
    draw,
    leading,
    random_keys,
    sparsity,
    top_count,
)


def seen_keys(
    keys: Tensor | None, causal: bool, length: int, key_length: int, device: torch.device
) -> Tensor:
    """Number of keys each query may see, `[B or 1, L or 1]`."""
    if not causal:
        return torch.full((1, 1), key_length, device=device) if keys is None else keys.sum(-1, True)
    last = torch.arange(length, device=device) + key_length - length
    if keys is None:
        return (last + 1).clamp(min=0)[None]
    return F.pad(keys.cumsum(-1), (1, 0))[:, (last + 1).clamp(min=0)]


def measure_of(
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


def top_queries(
    measure: Tensor, queries: Tensor | None, factor: int
) -> tuple[Tensor, Tensor | None]:
    """The u queries of largest measure `[B, H, u]`, and which attend (None: all)."""
    chosen = measure.topk(draw(measure.shape[-1], factor), dim=-1).indices
    if queries is None:
        return chosen, None
    allowed = top_count(queries.sum(-1), factor)[:, None, None]
    return chosen, (torch.arange(chosen.shape[-1], device=chosen.device) < allowed)


def attend_leading(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    fallback: Tensor,
    measure: Tensor,
    seen: Tensor,
    best: Tensor,
    keys: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Attend causally with the queries that lead; also the largest measures after them."""
    leads, best = leading(measure, best)
    leads = leads & (seen > 0)[:, None]
    width = leads.shape[-1]
    if not torch.compiler.is_compiling():
        width = int(leads.sum(-1).max())
    if not width:
        return fallback, best
    kept, chosen = leads.to(torch.uint8).topk(width, dim=-1)
    visible = ~later_keys(chosen, q.shape[2], k.shape[2])
    visible = visible if keys is None else visible & keys[:, None, None]
    return attend_chosen(q, k, v, fallback, chosen, kept.bool(), visible, scale), best


def attend_chosen(
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


def later_keys(chosen: Tensor, length: int, key_length: int) -> Tensor:
    """Keys after the chosen queries' own positions, bool `[B, H, C, S]`."""
    keys = torch.arange(key_length, device=chosen.device)
    return keys > chosen[..., None] + (key_length - length)

"""HiP attention, one block of queries at a time."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from shared_attention.masks import Mask, split


def reference_hip(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None = None,
    scale: float | None = None,
    block: int = 32,
    top_k: int = 8,
    sinks: int = 1,
    window: int = 4,
) -> Tensor:
    """Return `[B, H, L, Dv]` in float64, dropping padded positions."""
    batch, heads, length, width = q.shape
    scale = width**-0.5 if scale is None else scale
    q, k, v = q.double(), k.double(), v.double()
    parts = split(mask)
    out = v.new_zeros(batch, heads, length, v.shape[-1])
    for b in range(batch):
        kept = torch.arange(length)
        if parts.keys is not None:
            kept = kept[parts.keys[b]]
        for h in range(heads):
            query = q[b, h][kept]
            key, value = k[b, h * k.shape[1] // heads][kept], v[b, h * v.shape[1] // heads][kept]
            means = [x.mean(0) for x in key.split(block)] if len(kept) else []
            rows = [value[:0]]
            for own, asking in enumerate(query.split(block) if len(kept) else ()):
                leader = asking[0] if parts.causal else asking.mean(0)
                end = own + 1 if parts.causal else min(len(means), own + window + 1)
                always = [*range(min(sinks, end if parts.causal else len(means)))]
                always += range(max(0, own - window), end)
                limit = own if parts.causal else len(means)
                others = [n for n in range(limit) if n not in always]
                chosen = sorted({*always, *_search(leader, means, others, top_k)})
                for place, one in enumerate(asking, own * block):
                    seen = [j for n in chosen for j in range(n * block, (n + 1) * block)]
                    last = place if parts.causal else len(kept) - 1
                    seen = [j for j in seen if j <= last]
                    weights = torch.softmax(scale * (key[seen] @ one), 0)
                    rows.append((weights @ value[seen])[None])
            out = out.index_put((torch.tensor(b), torch.tensor(h), kept), torch.cat(rows))
    return out


def _search(leader: Tensor, means: list[Tensor], others: list[int], top_k: int) -> list[int]:
    """Halve ranges of `others`, keeping the `top_k` whose middle blocks score highest."""
    count = len(others)
    cuts = [count * n // top_k for n in range(top_k + 1)]
    ranges = [others[a:b] for a, b in itertools.pairwise(cuts) if a < b]
    while any(len(part) > 1 for part in ranges):
        halves = [
            half
            for part in ranges
            for half in (part[: (len(part) + 1) // 2], part[(len(part) + 1) // 2 :])
            if half
        ]
        halves.sort(key=lambda half: (means[half[len(half) // 2]] @ leader).item(), reverse=True)
        ranges = halves[:top_k]
    return [part[0] for part in ranges]

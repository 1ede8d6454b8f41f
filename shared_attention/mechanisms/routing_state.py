"""What routing attention continues from: the last members of every cluster, a constant size."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from shared_attention.primitives.fused import fused_attention
from shared_attention.primitives.local_blocks import local_blocks
from shared_attention.primitives.topk import gather


class Members(NamedTuple):
    """Rings of the last `window` members of each cluster of each sample and head."""

    k: Tensor
    """`[B, H, C, window, D]`; member m of a cluster lies at m % window."""
    v: Tensor
    """`[B, H, C, window, Dv]`."""
    total: Tensor
    """How many members each cluster has had, int64 `[B, H, C]`."""


def advance(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: Members,
    valid: Tensor | None,
    cluster: Tensor,
) -> tuple[Tensor, Members]:
    """Attend causally from new positions to the members of their clusters, and add them.

    Args:
        q: `[B, H, L, D]`.
        k: `[B, H, L, D]`.
        v: `[B, H, L, Dv]`.
        state: Members before.
        valid: Which of the new positions are real, bool `[B, L]`; None: all.
        cluster: Number of the cluster of each new position, `[B, H, L]`.

    Returns:
        `(out [B, H, L, Dv], state)`; zero for padded queries.
    """
    if valid is not None:
        q, k, v = (x.masked_fill(~valid[:, None, :, None], 0) for x in (q, k, v))
    if q.shape[2] == 1 and valid is None:
        return _one(q, k, v, state, cluster)
    clusters, window = state.k.shape[2:4]
    if valid is not None:
        cluster = cluster.masked_fill(~valid[:, None], clusters)
    out = _after(q, k, v, state, cluster)
    return out, _added(k, v, state, F.one_hot(cluster, clusters + 1)[..., :clusters], window)


def _one(
    q: Tensor, k: Tensor, v: Tensor, state: Members, cluster: Tensor
) -> tuple[Tensor, Members]:
    """One position: only the ring of its cluster is read."""
    window = state.k.shape[3]
    count = state.total.gather(2, cluster)
    slot = count % window
    index = (cluster * window + slot)[..., None]
    new_k, new_v = (
        ring.flatten(2, 3).scatter(2, index.expand_as(x), x).unflatten(2, ring.shape[2:4])
        for ring, x in ((state.k, k), (state.v, v))
    )
    near_k, near_v = (
        torch.take_along_dim(ring, cluster[..., None, None], dim=2)[:, :, 0]
        for ring in (new_k, new_v)
    )
    filled = torch.arange(window, device=q.device) <= count
    out = fused_attention(q, near_k, near_v, mask=filled[:, :, None])
    return out, Members(new_k, new_v, state.total.scatter_add(2, cluster, torch.ones_like(cluster)))


def _after(q: Tensor, k: Tensor, v: Tensor, state: Members, cluster: Tensor) -> Tensor:
    """Attend to the members before and among the new positions, sorted by cluster."""
    (batch, heads, length), (clusters, window) = q.shape[:3], state.k.shape[2:4]
    age = torch.arange(window, device=q.device)
    slot = (state.total[..., None] + age) % window
    kept = age >= window - state.total[..., None]
    every = torch.arange(clusters, device=q.device)[:, None]
    old = torch.where(kept, every, clusters).flatten(2)
    members, order = torch.cat([old, cluster], dim=2).sort(dim=-1, stable=True)
    place = (every * window + slot).flatten(2)
    q = torch.cat([q.new_zeros(batch, heads, clusters * window, q.shape[3]), q], dim=2)
    k, v = (
        torch.cat([gather(ring.flatten(2, 3), place), x], dim=2)
        for ring, x in ((state.k, k), (state.v, v))
    )
    q, k, v = (gather(x, order).flatten(0, 1)[:, None] for x in (q, k, v))
    members = members.flatten(0, 1)
    left = min(window, q.shape[2]) - 1
    keys = members < clusters
    out = local_blocks(q, k, v, left=left, right=0, keys=keys, segments=members)
    out = gather(out[:, 0].unflatten(0, (batch, heads)), order.argsort(dim=-1)[..., -length:])
    return out


def _added(k: Tensor, v: Tensor, state: Members, member: Tensor, window: int) -> Members:
    """Put new positions into the rings; `member [B, H, L, C]` is one-hot, zero for padding."""
    total = state.total[:, :, None] + member.cumsum(2)
    count = total[:, :, -1]
    last = (member * (total > count[:, :, None] - window)).bool()
    number = (member * total).sum(-1) - 1
    spare = state.k.shape[2] * window
    index = torch.where(last.any(-1), member.argmax(-1) * window + number % window, spare)

    def put(ring: Tensor, x: Tensor) -> Tensor:
        flat = F.pad(ring.flatten(2, 3), (0, 0, 0, 1))
        flat = flat.scatter(2, index[..., None].expand_as(x), x)
        return flat[:, :, :-1].unflatten(2, ring.shape[2:4])

    return Members(put(state.k, k), put(state.v, v), count)

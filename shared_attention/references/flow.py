"""Flow-Attention, one position at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from shared_attention.masks import Mask, split

EPS = 1e-6


def reference_flow(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None = None,
    self_attention: bool | None = None,
) -> Tensor:
    """Form the flow from every source to every sink explicitly, dropping what is padded.

    Args:
        q: Queries `[B, H, L, D]`.
        k: Keys `[B, H, S, D]`.
        v: Values `[B, H, S, Dv]`.
        mask: `masks.causal()`, `masks.keys(valid)` or both.
        self_attention: Whether padded keys are padded queries too; None: when L equals S.

    Returns:
        float64 `[B, H, L, Dv]`.
    """
    parts = split(mask)
    paired = q.shape[2] == k.shape[2] if self_attention is None else self_attention
    samples = []
    for b in range(q.shape[0]):
        real = [True] * k.shape[2] if parts.keys is None else parts.keys[b].tolist()
        sources = [j for j in range(k.shape[2]) if real[j]]
        sinks = sources if paired else list(range(q.shape[2]))
        head = _causal_head if parts.causal else _head
        heads = zip(q[b].double(), k[b].double(), v[b].double(), strict=True)
        samples.append(torch.stack([head(*one, sinks, sources) for one in heads]))
    return torch.stack(samples)


def _head(q: Tensor, k: Tensor, v: Tensor, sinks: list[int], sources: list[int]) -> Tensor:
    """`q [L, D]`, `k [S, D]`, `v [S, Dv]` of one head."""
    phi_q, phi_k, v = q.sigmoid(), k[sources].sigmoid(), v[sources]
    real_q = phi_q[sinks]
    if not sources:
        return q.new_zeros(len(q), v.shape[-1])
    outgoing = torch.stack([(source + EPS) @ (real_q.sum(0) + EPS) for source in phi_k])
    incoming = torch.stack([(sink + EPS) @ (phi_k.sum(0) + EPS) for sink in phi_q])
    given = (real_q / incoming[sinks, None]).sum(0)
    wanted = (phi_k / outgoing[:, None]).sum(0)
    contest = torch.stack([((source + EPS) @ (given + EPS)).clamp(-1, 1) for source in phi_k])
    share = torch.softmax(contest, 0) * len(sources)
    rows = []
    for sink, flow in zip(phi_q, incoming, strict=True):
        gate = torch.sigmoid((sink + EPS) @ (wanted + EPS) * len(sinks) / len(sources))
        weights = gate * (phi_k @ sink) / flow * share
        rows.append(weights @ v)
    return torch.stack(rows)


def _causal_head(q: Tensor, k: Tensor, v: Tensor, sinks: list[int], sources: list[int]) -> Tensor:
    """One position after the other; `sinks` and `sources` are the same real positions."""
    phi_q, phi_k = q.sigmoid(), k.sigmoid()
    given = wanted = q.new_zeros(q.shape[-1])
    contest = q.new_zeros(0)
    seen: list[int] = []
    rows = []
    for i in range(len(q)):
        real = i in sources
        seen = [*seen, i] if real else seen
        n = max(1, len(seen))
        incoming = (phi_q[i] + EPS) @ (phi_k[seen].sum(0) + EPS)
        if real:
            outgoing = (phi_k[i] + EPS) @ (phi_q[seen].sum(0) + EPS)
            wanted = wanted + phi_k[i] * n / outgoing
            given = given + phi_q[i] * n / incoming
            level = (phi_k[i] + EPS) @ (given + EPS) / n
            contest = torch.cat([contest, level.clamp(-1, 1).exp()[None]])
        gate = torch.sigmoid((phi_q[i] + EPS) @ (wanted + EPS) / n)
        count = torch.arange(1, len(seen) + 1, dtype=contest.dtype)
        share = contest / contest.cumsum(0) * count
        rows.append(gate * ((phi_k[seen] @ phi_q[i]) / incoming * share) @ v[seen])
    return torch.stack(rows)

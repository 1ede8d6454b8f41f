"""ProbSparse attention, one query at a time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from shared_attention.masks import Mask, split


def reference_prob_sparse(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None = None,
    scale: float | None = None,
    factor: int = 5,
    seed: int = 0,
    self_attention: bool | None = None,
) -> Tensor:
    """Corrected form of `prob_sparse_attention`, as a loop over samples, heads and queries.

    Args:
        q: Queries `[B, H, L, D]`.
        k: Keys `[B, H, S, D]`.
        v: Values `[B, H, S, Dv]`.
        mask: `masks.causal()`, `masks.keys(valid)` or both.
        scale: Score scale; None is 1 / sqrt(D).
        factor: Sampling factor.
        seed: Seed of the sampled keys.
        self_attention: Whether padded keys are padded queries too; None: when L equals S.

    Returns:
        float64 `[B, H, L, Dv]`.
    """
    q, k, v = q.double(), k.double(), v.double()
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    length, key_length = q.shape[2], k.shape[2]
    parts = split(mask)
    paired = length == key_length if self_attention is None else self_attention
    samples = []
    for b in range(q.shape[0]):
        real = [True] * key_length if parts.keys is None else parts.keys[b].tolist()
        queries = [i for i in range(length) if not paired or real[i]]
        visible = [
            [j for j in range(key_length) if real[j] and _before(parts.causal, i, j, q, k)]
            for i in range(length)
        ]
        heads = [
            _head(q[b, h], k[b, h], v[b, h], queries, visible, parts.causal, scale, factor, seed)
            for h in range(q.shape[1])
        ]
        samples.append(torch.stack(heads))
    return torch.stack(samples)


def _before(causal: bool, i: int, j: int, q: Tensor, k: Tensor) -> bool:
    return not causal or j <= i + k.shape[2] - q.shape[2]


def _head(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    queries: list[int],
    visible: list[list[int]],
    causal: bool,
    scale: float,
    factor: int,
    seed: int,
) -> Tensor:
    measure = {}
    for row, i in enumerate(queries):
        keys = visible[i]
        picked = [keys[_hash(seed, row, u) * len(keys) >> 32] for u in range(_count(keys, factor))]
        scores = (k[picked] @ q[i]).tolist()
        measure[i] = max(scores) - sum(scores) / len(keys) if keys else -math.inf
    attends = _attending(queries, measure, causal, factor)
    rows = []
    for i in range(q.shape[0]):
        keys = visible[i]
        if not keys:
            rows.append(v[:0].sum(0))
        elif i in attends:
            rows.append(torch.softmax(k[keys] @ q[i] * scale, 0) @ v[keys])
        else:
            rows.append(v[keys].mean(0))
    return torch.stack(rows)


def _attending(
    queries: list[int], measure: dict[int, float], causal: bool, factor: int
) -> set[int]:
    if not causal:
        ranked = sorted(queries, key=lambda i: measure[i], reverse=True)
        return set(ranked[: _count(queries, factor)])
    attends = set()
    for n, i in enumerate(queries):
        leading = sum(measure[j] >= measure[i] for j in queries[:n])
        if leading < factor:
            attends.add(i)
    return attends


def _count(items: list[int], factor: int) -> int:
    if not items:
        return 0
    return min(len(items), max(1, factor * math.ceil(math.log(len(items)))))


def _hash(seed: int, row: int, sample: int) -> int:
    word = (row * 0x9E3779B1 + sample * 0x85EBCA6B + seed * 0xC2B2AE35) % 2**32
    for _ in range(2):
        word = (word ^ (word >> 16)) * 0x45D9F3B % 2**32
    return word ^ (word >> 16)

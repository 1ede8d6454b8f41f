"""Kernels of softmax attention to blocks of keys: a sliding window, or blocks behind landmarks.

M queries of a program read tiles of N keys one after another; no score leaves the registers. With
LANDMARK a tile is one block of keys, so that its own softmax is at hand: the scores of a block
other than the query's own become s - logsumexp(s) + score of its landmark.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _queries(  # type: ignore[no-untyped-def]
    own, last, sample, i, length, offset, left, right, block, real, M: tl.constexpr,
    LANDMARK: tl.constexpr,
):  # fmt: skip
    """First and last key position that each query sees, and the block that it stands in."""
    low = i + offset - left
    high = i + offset + right
    home = tl.zeros([M], tl.int32)
    if LANDMARK:
        low = tl.zeros([M], tl.int32)
        high = tl.load(last + sample * length + i, mask=real, other=-1)
        home = tl.load(own + sample * length + i, mask=real, other=-1)
    return low, tl.where(real, high, -1), home


@triton.jit
def _tile(  # type: ignore[no-untyped-def]
    query, k, v, valid, end, low, high, home, problem, sample, n, scale,
    count, width, wide, block, d, w,
    N: tl.constexpr, LANDMARK: tl.constexpr, CAUSAL: tl.constexpr, HAS_VALID: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Keys, values, logits, weights within the block, and which queries reach it from outside."""
    inside = tl.arange(0, N)
    key = n * block + inside
    there = (inside < block) & (key < count)
    shown = there
    if HAS_VALID:
        shown = there & (tl.load(valid + sample * count + key, mask=there, other=0) > 0)
    at = problem * count + key[:, None]
    keys = tl.load(
        k + at * width + d[None, :], mask=shown[:, None] & (d < width)[None, :], other=0.0
    )
    values = tl.load(
        v + at * wide + w[None, :], mask=shown[:, None] & (w < wide)[None, :], other=0.0
    )
    scores = tl.dot(query, tl.trans(keys), input_precision=PRECISION) * scale
    seen = shown[None, :] & (key[None, :] >= low[:, None]) & (key[None, :] <= high[:, None])
    within = scores
    away = home != home
    if LANDMARK:
        seen = seen & (inside < block - 1)[None, :]
        away = (n != home) & ((n + 1) * block <= end) & (high >= 0)
        if CAUSAL:
            away = n < home
        seen = seen & (away | (home == n))[:, None]
        tokens = tl.where(seen, scores, -float("inf"))
        top = tl.max(tokens, 1)
        top = tl.where(top == -float("inf"), 0.0, top)
        within = tl.exp(tokens - top[:, None])
        total = tl.sum(within, 1)
        total = tl.where(total > 0, total, 1.0)
        within = within / total[:, None]
        mark = tl.sum(tl.where((inside == block - 1)[None, :], scores, 0.0), 1)
        scores += tl.where(away, mark - top - tl.log(total), 0.0)[:, None]
    return keys, values, tl.where(seen, scores, -float("inf")), within, away


@triton.jit
def forward(  # type: ignore[no-untyped-def]
    q, k, v, valid, own, last, ends, out, lse, scale, length, count, width, wide, heads, block,
    offset, left, right,
    M: tl.constexpr, N: tl.constexpr, D: tl.constexpr, W: tl.constexpr, LANDMARK: tl.constexpr,
    CAUSAL: tl.constexpr, HAS_VALID: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Outputs and log-sum-exp of M queries."""
    problem = tl.program_id(1).to(tl.int64)
    sample = problem // heads
    i = tl.program_id(0) * M + tl.arange(0, M)
    d, w = tl.arange(0, D), tl.arange(0, W)
    real = i < length
    end = tl.load(ends + sample)
    row = problem * length + i[:, None]
    query = tl.load(
        q + row * width + d[None, :], mask=real[:, None] & (d < width)[None, :], other=0.0
    )
    low, high, home = _queries(
        own, last, sample, i, length, offset, left, right, block, real, M, LANDMARK
    )
    first = tl.maximum(tl.min(low, 0), 0) // block
    final = tl.minimum(tl.max(high, 0), count - 1) // block
    top = tl.full([M], -float("inf"), tl.float32)
    total = tl.zeros([M], tl.float32)
    mixed = tl.zeros([M, W], tl.float32)
    for n in range(first, final + 1):
        _keys, values, scores, _within, _away = _tile(
            query, k, v, valid, end, low, high, home, problem, sample, n, scale,
            count, width, wide, block, d, w, N, LANDMARK, CAUSAL, HAS_VALID, PRECISION,
        )  # fmt: skip
        higher = tl.maximum(top, tl.max(scores, 1))
        base = tl.where(higher == -float("inf"), 0.0, higher)
        weights = tl.exp(scores - base[:, None])
        share = tl.exp(top - base)
        total = total * share + tl.sum(weights, 1)
        mixed = mixed * share[:, None] + tl.dot(
            weights.to(values.dtype), values, input_precision=PRECISION
        )
        top = higher
    some = total > 0
    share = tl.where(some, total, 1.0)
    tl.store(
        out + row * wide + w[None, :],
        (mixed / share[:, None]).to(out.dtype.element_ty),
        mask=real[:, None] & (w < wide)[None, :],
    )
    tl.store(lse + problem * length + i, tl.where(some, top + tl.log(share), 0.0), mask=real)


@triton.jit
def _slopes(  # type: ignore[no-untyped-def]
    scores, within, away, values, given, lse, inner, block,
    N: tl.constexpr, LANDMARK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Weights `[M, N]` and the gradient of the scores."""
    weights = tl.exp(scores - lse[:, None])
    pull = tl.dot(given, tl.trans(values), input_precision=PRECISION)
    slopes = weights * (pull - inner[:, None])
    if LANDMARK:
        mark = tl.where(away, tl.sum(slopes, 1), 0.0)[:, None]
        slopes += tl.where((tl.arange(0, N) == block - 1)[None, :], mark, -within * mark)
    return weights, slopes


@triton.jit
def query_gradients(  # type: ignore[no-untyped-def]
    q, k, v, valid, own, last, ends, d_out, lse, inner, d_q, scale, length, count, width, wide,
    heads, block, offset, left, right,
    M: tl.constexpr, N: tl.constexpr, D: tl.constexpr, W: tl.constexpr, LANDMARK: tl.constexpr,
    CAUSAL: tl.constexpr, HAS_VALID: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of M queries."""
    problem = tl.program_id(1).to(tl.int64)
    sample = problem // heads
    i = tl.program_id(0) * M + tl.arange(0, M)
    d, w = tl.arange(0, D), tl.arange(0, W)
    real = i < length
    end = tl.load(ends + sample)
    row = problem * length + i[:, None]
    cell = real[:, None] & (d < width)[None, :]
    query = tl.load(q + row * width + d[None, :], mask=cell, other=0.0)
    given = tl.load(
        d_out + row * wide + w[None, :], mask=real[:, None] & (w < wide)[None, :], other=0.0
    )
    level = tl.load(lse + problem * length + i, mask=real, other=0.0)
    mean = tl.load(inner + problem * length + i, mask=real, other=0.0)
    low, high, home = _queries(
        own, last, sample, i, length, offset, left, right, block, real, M, LANDMARK
    )
    first = tl.maximum(tl.min(low, 0), 0) // block
    final = tl.minimum(tl.max(high, 0), count - 1) // block
    found = tl.zeros([M, D], tl.float32)
    for n in range(first, final + 1):
        keys, values, scores, within, away = _tile(
            query, k, v, valid, end, low, high, home, problem, sample, n, scale,
            count, width, wide, block, d, w, N, LANDMARK, CAUSAL, HAS_VALID, PRECISION,
        )  # fmt: skip
        _weights, slopes = _slopes(
            scores, within, away, values, given, level, mean, block, N, LANDMARK, PRECISION
        )
        found += tl.dot(slopes.to(keys.dtype), keys, input_precision=PRECISION)
    tl.store(d_q + row * width + d[None, :], (found * scale).to(d_q.dtype.element_ty), mask=cell)


@triton.jit
def key_gradients(  # type: ignore[no-untyped-def]
    q, k, v, valid, own, last, ends, d_out, lse, inner, d_k, d_v, scale, length, count, width,
    wide, heads, block, offset, left, right,
    M: tl.constexpr, N: tl.constexpr, D: tl.constexpr, W: tl.constexpr, LANDMARK: tl.constexpr,
    CAUSAL: tl.constexpr, HAS_VALID: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of the keys and values of one tile."""
    n = tl.program_id(0)
    problem = tl.program_id(1).to(tl.int64)
    sample = problem // heads
    d, w = tl.arange(0, D), tl.arange(0, W)
    end = tl.load(ends + sample)
    first, final = 0, length - 1
    if LANDMARK:
        if CAUSAL:
            first = n * block - offset
    else:
        first = n * block - offset - right
        final = tl.minimum(final, (n + 1) * block - 1 - offset + left)
    first = tl.maximum(first, 0) // M
    found_k = tl.zeros([N, D], tl.float32)
    found_v = tl.zeros([N, W], tl.float32)
    for m in range(first, final // M + 1):
        i = m * M + tl.arange(0, M)
        real = i < length
        row = problem * length + i[:, None]
        query = tl.load(
            q + row * width + d[None, :], mask=real[:, None] & (d < width)[None, :], other=0.0
        )
        given = tl.load(
            d_out + row * wide + w[None, :], mask=real[:, None] & (w < wide)[None, :], other=0.0
        )
        level = tl.load(lse + problem * length + i, mask=real, other=0.0)
        mean = tl.load(inner + problem * length + i, mask=real, other=0.0)
        low, high, home = _queries(
            own, last, sample, i, length, offset, left, right, block, real, M, LANDMARK
        )
        _keys, values, scores, within, away = _tile(
            query, k, v, valid, end, low, high, home, problem, sample, n, scale,
            count, width, wide, block, d, w, N, LANDMARK, CAUSAL, HAS_VALID, PRECISION,
        )  # fmt: skip
        weights, slopes = _slopes(
            scores, within, away, values, given, level, mean, block, N, LANDMARK, PRECISION
        )
        found_k += tl.dot(tl.trans(slopes).to(query.dtype), query, input_precision=PRECISION)
        found_v += tl.dot(tl.trans(weights).to(given.dtype), given, input_precision=PRECISION)
    inside = tl.arange(0, N)
    key = n * block + inside
    there = ((inside < block) & (key < count))[:, None]
    at = problem * count + key[:, None]
    tl.store(
        d_k + at * width + d[None, :],
        (found_k * scale).to(d_k.dtype.element_ty),
        mask=there & (d < width)[None, :],
    )
    tl.store(
        d_v + at * wide + w[None, :],
        found_v.to(d_v.dtype.element_ty),
        mask=there & (w < wide)[None, :],
    )

"""Kernels of the chunked linear scan, with and without decay, forward and backward.

Shape letters: Z batch and heads, N chunks, C positions of a chunk, F width of keys, V of values.
`sums` are running sums of the log decays from the start of each chunk, in float64: the decay
between two positions is exp of a difference of two of them, which keeps its precision however
strong the decays before it were. Weights within a chunk are formed at 1, 2, 4, ... positions from
the boundary between them, so that every exponent is at most 0 and nothing overflows.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def carry(  # type: ignore[no-untyped-def]
    rows, values, extra, sums, start, start_sum, kept, kept_sum, last, last_sum,
    length, chunks, width, wide,
    C: tl.constexpr, F: tl.constexpr, V: tl.constexpr, DECAY: tl.constexpr, NORMAL: tl.constexpr,
    HAS_START: tl.constexpr, REVERSE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Keep the state before each chunk; REVERSE keeps the gradient of the state after it."""
    problem = tl.program_id(0).to(tl.int64)
    f = tl.program_id(1) * F + tl.arange(0, F)
    w = tl.program_id(2) * V + tl.arange(0, V)
    place = tl.arange(0, C)
    cell = f[:, None] * wide + w[None, :]
    inside = (f < width)[:, None] & (w < wide)[None, :]
    summing = NORMAL and tl.program_id(2) == 0
    state = tl.zeros([F, V], tl.float32)
    total = tl.zeros([F], tl.float32)
    if HAS_START:
        state += tl.load(start + problem * width * wide + cell, mask=inside, other=0.0)
        if NORMAL:
            total += tl.load(start_sum + problem * width + f, mask=f < width, other=0.0)
    for step in range(chunks):
        chunk = chunks - 1 - step if REVERSE else step
        to = kept + (problem * chunks + chunk) * width * wide
        tl.store(to + cell, state.to(kept.dtype.element_ty), mask=inside)
        if summing:
            tl.store(kept_sum + (problem * chunks + chunk) * width + f, total, mask=f < width)
        t = chunk * C + place
        real = t < length
        row = tl.load(
            rows + (problem * length + t[:, None]) * width + f[None, :],
            mask=real[:, None] & (f < width)[None, :],
            other=0.0,
        )
        value = tl.load(
            values + (problem * length + t[:, None]) * wide + w[None, :],
            mask=real[:, None] & (w < wide)[None, :],
            other=0.0,
        )
        if DECAY:
            base = sums + (problem * chunks + chunk) * C * width
            from_start = tl.load(
                base + place[:, None] * width + f[None, :], mask=(f < width)[None, :], other=0.0
            )
            end = tl.load(base + (C - 1) * width + f, mask=f < width, other=0.0)
            far = from_start if REVERSE else end[None, :] - from_start
            row = (row * tl.exp(far.to(tl.float32))).to(row.dtype)
            state *= tl.exp(end.to(tl.float32))[:, None]
        if summing:
            if REVERSE:
                weight = tl.load(extra + problem * length + t, mask=real, other=0.0)
                total += tl.sum(row * weight[:, None], 0)
            else:
                total += tl.sum(row.to(tl.float32), 0)
        state += tl.dot(tl.trans(row), value, input_precision=PRECISION)
    tl.store(last + problem * width * wide + cell, state, mask=inside)
    if summing:
        tl.store(last_sum + problem * width + f, total, mask=f < width)


@triton.jit
def _near(base, from_start, place, f, width, HALF: tl.constexpr):  # type: ignore[no-untyped-def]
    """Decays `[C, F]` between each position and the boundary HALF away, and who lies behind it."""
    middle = place // (2 * HALF) * (2 * HALF) + HALF - 1
    boundary = tl.load(
        base + middle[:, None] * width + f[None, :], mask=(f < width)[None, :], other=0.0
    )
    near = tl.exp(-tl.abs(from_start - boundary).to(tl.float32))
    return near, ((place // HALF) % 2 == 1)[:, None]


@triton.jit
def _weigh(  # type: ignore[no-untyped-def]
    q, k, base, from_start, place, f, width,
    C: tl.constexpr, LEVELS: tl.constexpr, DECAY: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Weights `[C, C]` of keys j for queries t >= j of one chunk."""
    if DECAY:
        own = tl.sum(q.to(tl.float32) * k.to(tl.float32), 1)
        weights = tl.where(place[:, None] == place[None, :], own[:, None], 0.0)
        for level in tl.static_range(LEVELS):
            near, late = _near(base, from_start, place, f, width, 1 << level)
            queries = tl.where(late, q * near, 0.0).to(q.dtype)
            keys = tl.where(late, 0.0, k * near).to(k.dtype)
            pair = place // (2 << level)
            scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION)
            weights += tl.where(pair[:, None] == pair[None, :], scores, 0.0)
    else:
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        weights = tl.where(place[:, None] >= place[None, :], scores, 0.0)
    return weights


@triton.jit
def outputs(  # type: ignore[no-untyped-def]
    q, k, v, sums, kept, kept_sum, out, norm, length, chunks, width, wide, least,
    C: tl.constexpr, F: tl.constexpr, V: tl.constexpr, LEVELS: tl.constexpr,
    DECAY: tl.constexpr, NORMAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Outputs of one chunk from the state before it; NORMAL divides by the sum of weights."""
    program = tl.program_id(0).to(tl.int64)
    problem, chunk = program // chunks, program % chunks
    place = tl.arange(0, C)
    f = tl.arange(0, F)
    t = problem * length + chunk * C + place
    real = chunk * C + place < length
    row = real[:, None] & (f < width)[None, :]
    query = tl.load(q + t[:, None] * width + f[None, :], mask=row, other=0.0)
    key = tl.load(k + t[:, None] * width + f[None, :], mask=row, other=0.0)
    base = sums + program * C * width
    from_start = tl.zeros([C, F], tl.float64)
    if DECAY:
        from_start = tl.load(
            base + place[:, None] * width + f[None, :], mask=(f < width)[None, :], other=0.0
        )
    weights = _weigh(query, key, base, from_start, place, f, width, C, LEVELS, DECAY, PRECISION)
    reading = query
    if DECAY:
        reading = (query * tl.exp(from_start.to(tl.float32))).to(query.dtype)
    share = tl.full([C], 1.0, tl.float32)
    if NORMAL:
        total = tl.load(kept_sum + program * width + f, mask=f < width, other=0.0)
        share = tl.sum(weights, 1) + tl.sum(query * total[None, :], 1)
        share = tl.maximum(share, least)
        tl.store(norm + t, share, mask=real)
    weights = weights.to(query.dtype)
    for first in range(0, wide, V):
        w = first + tl.arange(0, V)
        columns = (w < wide)[None, :]
        value = tl.load(v + t[:, None] * wide + w[None, :], mask=real[:, None] & columns, other=0.0)
        state = tl.load(
            kept + program * width * wide + f[:, None] * wide + w[None, :],
            mask=(f < width)[:, None] & columns,
            other=0.0,
        )
        mixed = tl.dot(weights, value, input_precision=PRECISION)
        mixed += tl.dot(reading, state, input_precision=PRECISION)
        tl.store(
            out + t[:, None] * wide + w[None, :],
            (mixed / share[:, None]).to(out.dtype.element_ty),
            mask=real[:, None] & columns,
        )


@triton.jit
def gradients(  # type: ignore[no-untyped-def]
    q, k, v, sums, kept, kept_sum, d_kept, d_kept_sum, d_out, d_norm, d_q, d_k, d_v, d_decay,
    length, chunks, width, wide,
    C: tl.constexpr, F: tl.constexpr, V: tl.constexpr, LEVELS: tl.constexpr,
    DECAY: tl.constexpr, NORMAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of one chunk from the state before it and the gradient of the state after it."""
    program = tl.program_id(0).to(tl.int64)
    problem, chunk = program // chunks, program % chunks
    place = tl.arange(0, C)
    f = tl.arange(0, F)
    t = problem * length + chunk * C + place
    real = chunk * C + place < length
    row = real[:, None] & (f < width)[None, :]
    at = t[:, None] * width + f[None, :]
    query = tl.load(q + at, mask=row, other=0.0)
    key = tl.load(k + at, mask=row, other=0.0)
    base = sums + program * C * width
    from_start = tl.zeros([C, F], tl.float64)
    end = tl.zeros([F], tl.float64)
    writing = key
    if DECAY:
        from_start = tl.load(
            base + place[:, None] * width + f[None, :], mask=(f < width)[None, :], other=0.0
        )
        end = tl.load(base + (C - 1) * width + f, mask=f < width, other=0.0)
        writing = (key * tl.exp((end[None, :] - from_start).to(tl.float32))).to(key.dtype)
    weights = _weigh(query, key, base, from_start, place, f, width, C, LEVELS, DECAY, PRECISION)
    weights = weights.to(query.dtype)
    d_weights = tl.zeros([C, C], tl.float32)
    read_q = tl.zeros([C, F], tl.float32)
    read_k = tl.zeros([C, F], tl.float32)
    through = tl.zeros([F], tl.float32)
    for first in range(0, wide, V):
        w = first + tl.arange(0, V)
        columns = (w < wide)[None, :]
        cell = (f < width)[:, None] & columns
        states = program * width * wide + f[:, None] * wide + w[None, :]
        place_v = t[:, None] * wide + w[None, :]
        value = tl.load(v + place_v, mask=real[:, None] & columns, other=0.0)
        given = tl.load(d_out + place_v, mask=real[:, None] & columns, other=0.0)
        state = tl.load(kept + states, mask=cell, other=0.0)
        d_state = tl.load(d_kept + states, mask=cell, other=0.0)
        d_weights += tl.dot(given, tl.trans(value), input_precision=PRECISION)
        read_q += tl.dot(given, tl.trans(state), input_precision=PRECISION)
        read_k += tl.dot(value, tl.trans(d_state), input_precision=PRECISION)
        d_value = tl.dot(tl.trans(weights), given, input_precision=PRECISION)
        d_value += tl.dot(writing, d_state, input_precision=PRECISION)
        tl.store(d_v + place_v, d_value.to(d_v.dtype.element_ty), mask=real[:, None] & columns)
        if DECAY:
            through += tl.sum(state.to(tl.float32) * d_state.to(tl.float32), 1)
    if NORMAL:
        share = tl.load(d_norm + t, mask=real, other=0.0)
        total = tl.load(kept_sum + program * width + f, mask=f < width, other=0.0)
        d_total = tl.load(d_kept_sum + program * width + f, mask=f < width, other=0.0)
        d_weights += share[:, None]
        read_q += share[:, None] * total[None, :]
        read_k += d_total[None, :]
    d_weights = tl.where(place[:, None] >= place[None, :], d_weights, 0.0)
    if DECAY:
        own = tl.sum(tl.where(place[:, None] == place[None, :], d_weights, 0.0), 1)[:, None]
        read_q *= tl.exp(from_start.to(tl.float32))
        read_k *= tl.exp((end[None, :] - from_start).to(tl.float32))
        after = through * tl.exp(end.to(tl.float32)) + tl.sum(read_k * key, 0)
        for level in tl.static_range(LEVELS):
            near, late = _near(base, from_start, place, f, width, 1 << level)
            pair = place // (2 << level)
            d_scores = tl.where(pair[:, None] == pair[None, :], d_weights, 0.0).to(query.dtype)
            keys = tl.where(late, 0.0, key * near).to(key.dtype)
            queries = tl.where(late, query * near, 0.0).to(query.dtype)
            into_q = tl.dot(d_scores, keys, input_precision=PRECISION)
            into_k = tl.dot(tl.trans(d_scores), queries, input_precision=PRECISION)
            read_q += tl.where(late, into_q * near, 0.0)
            read_k += tl.where(late, 0.0, into_k * near)
        d_log = tl.cumsum(read_q * query - read_k * key, 0, reverse=True) + after[None, :]
        tl.store(d_decay + at, d_log, mask=row)
        read_q += own * key
        read_k += own * query
    else:
        d_scores = d_weights.to(query.dtype)
        read_q += tl.dot(d_scores, key, input_precision=PRECISION)
        read_k += tl.dot(tl.trans(d_scores), query, input_precision=PRECISION)
    tl.store(d_q + at, read_q.to(d_q.dtype.element_ty), mask=row)
    tl.store(d_k + at, read_k.to(d_k.dtype.element_ty), mask=row)

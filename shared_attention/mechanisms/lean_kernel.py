"""The Triton kernel of LeanAttention: each program reads an equal share of all key tiles."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from shared_attention.mechanisms.lean import TILE, merge_segments, split_evenly

LEAST_ROWS = 16
"""Queries that a matrix instruction takes at least."""


@triton.jit
def _decode(  # type: ignore[no-untyped-def]
    q,
    k,
    v,
    valid,
    rows,
    starts,
    stops,
    first,
    out,
    lse,
    scale,
    queries,
    length,
    count,
    key_heads,
    k_batch,
    k_head,
    k_row,
    v_batch,
    v_head,
    v_row,
    HAS_VALID: tl.constexpr,
    CAUSAL: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    DK: tl.constexpr,
    DV: tl.constexpr,
    K_WIDTH: tl.constexpr,
    V_WIDTH: tl.constexpr,
):
    worker = tl.program_id(0)
    m = tl.arange(0, M)
    n = tl.arange(0, N)
    dk = tl.arange(0, DK)
    dv = tl.arange(0, DV)
    for segment in range(tl.load(first + worker), tl.load(first + worker + 1)):
        row = tl.load(rows + segment)
        start = tl.load(starts + segment)
        stop = tl.load(stops + segment)
        sample = row // key_heads
        head = row % key_heads
        asked = tl.load(
            q + (row * queries + m[:, None]) * K_WIDTH + dk[None, :],
            mask=(m[:, None] < queries) & (dk[None, :] < K_WIDTH),
            other=0.0,
        )
        top = tl.full([M], -float("inf"), tl.float32)
        total = tl.zeros([M], tl.float32)
        mixed = tl.zeros([M, DV], tl.float32)
        for at in range(start, stop, N):
            key = at + n
            real = key < stop
            if HAS_VALID:
                real = real & (tl.load(valid + sample * count + key, mask=real, other=0) > 0)
            keys = tl.load(
                k + sample * k_batch + head * k_head + key[:, None] * k_row + dk[None, :],
                mask=real[:, None] & (dk[None, :] < K_WIDTH),
                other=0.0,
            )
            values = tl.load(
                v + sample * v_batch + head * v_head + key[:, None] * v_row + dv[None, :],
                mask=real[:, None] & (dv[None, :] < V_WIDTH),
                other=0.0,
            )
            scores = tl.dot(asked, tl.trans(keys), input_precision="ieee") * scale
            seen = real[None, :]
            if CAUSAL:
                seen = seen & (key[None, :] <= (m % length)[:, None] + count - length)
            scores = tl.where(seen, scores, -float("inf"))
            higher = tl.maximum(top, tl.max(scores, 1))
            base = tl.where(higher == -float("inf"), 0.0, higher)
            weights = tl.exp(scores - base[:, None])
            kept = tl.exp(top - base)
            total = total * kept + tl.sum(weights, 1)
            mixed = mixed * kept[:, None] + tl.dot(
                weights.to(values.dtype), values, input_precision="ieee"
            )
            top = higher
        some = total > 0
        share = tl.where(some, total, 1.0)
        tl.store(
            out + (segment * queries + m[:, None]) * V_WIDTH + dv[None, :],
            mixed / share[:, None],
            mask=(m[:, None] < queries) & (dv[None, :] < V_WIDTH),
        )
        tl.store(
            lse + segment * queries + m,
            tl.where(some, top + tl.log(share), -float("inf")),
            mask=m < queries,
        )


def decode(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Sequence[int],
    valid: Tensor | None,
    *,
    scale: float | None,
    workers: int,
    causal: bool,
) -> Tensor:
    """Attend from few queries to caches of unequal length.

    Args:
        q: `[B, H, L, Dk]`.
        k: `[B, Hk, S, Dk]`.
        v: `[B, Hk, S, Dv]`.
        lengths: Keys to read of each sequence.
        valid: bool `[B, S]` or None.
        scale: Defaults to 1 / sqrt(Dk).
        workers: Programs.
        causal: Whether query i sees keys up to i + S - L only.

    Returns:
        `[B, H, L, Dv]`.
    """
    batch, heads, length, width = q.shape
    key_heads, count = k.shape[1:3]
    queries = heads // key_heads * length
    k, v = (x if x.stride(3) == 1 else x.contiguous() for x in (k, v))
    shares = split_evenly([n for n in lengths for _ in range(key_heads)], workers, TILE)
    segments = [segment for share in shares for segment in share]
    bounds = [0]
    for share in shares:
        bounds.append(bounds[-1] + len(share))
    if not segments:
        return q.new_zeros(batch, heads, length, v.shape[-1])
    plan = torch.tensor(segments, dtype=torch.int32).T.contiguous().to(q.device)
    first = torch.tensor(bounds, dtype=torch.int32, device=q.device)
    out = q.new_empty(len(segments), queries, v.shape[-1], dtype=torch.float32)
    lse = out.new_empty(len(segments), queries)
    _decode[(workers,)](
        q.reshape(batch * key_heads, queries, width).contiguous(),
        k,
        v,
        q if valid is None else valid.contiguous().view(torch.uint8),
        *plan,
        first,
        out,
        lse,
        1 / math.sqrt(width) if scale is None else scale,
        queries,
        length,
        count,
        key_heads,
        *k.stride()[:3],
        *v.stride()[:3],
        HAS_VALID=valid is not None,
        CAUSAL=causal,
        M=max(LEAST_ROWS, triton.next_power_of_2(queries)),
        N=TILE,
        DK=max(LEAST_ROWS, triton.next_power_of_2(width)),
        DV=max(LEAST_ROWS, triton.next_power_of_2(v.shape[-1])),
        K_WIDTH=width,
        V_WIDTH=v.shape[-1],
    )
    merged = merge_segments(out, lse, plan[0].long(), batch * key_heads)
    return merged.reshape(batch, heads, length, -1).to(q.dtype)

"""The Triton kernels of LeanAttention: each program reads an equal share of all key tiles.

Which tiles a program reads follows from the lengths on the device, so that a step of decoding
waits for nothing on the host. As programs and rows advance together along the line of tiles, the
part of row r that program p reads has the number r + p, and no other part has it. Of more
programs than tiles, those beyond the tiles do nothing.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from shared_attention.kernels.support import precision
from shared_attention.mechanisms.lean import TILE

LEAST_ROWS = 16
"""Queries that a matrix instruction takes at least."""


@triton.jit
def _decode(  # type: ignore[no-untyped-def]
    q, k, v, valid, lengths, ends, out, lse, scale, queries, length, count, row_count, key_heads,
    k_batch, k_head, k_row, v_batch, v_head, v_row,
    HAS_VALID: tl.constexpr, CAUSAL: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    DK: tl.constexpr, DV: tl.constexpr, K_WIDTH: tl.constexpr, V_WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Attend to one share of the tiles: outputs and log-sum-exp of each row in it."""
    worker = tl.program_id(0).to(tl.int64)
    tiles = tl.load(ends + row_count - 1)
    workers = tl.maximum(tl.minimum(tiles, tl.num_programs(0)), 1)  # each has a tile
    tile = tl.minimum(worker * tiles // workers, tiles)
    final = tl.minimum((worker + 1) * tiles // workers, tiles)
    m = tl.arange(0, M)
    n = tl.arange(0, N)
    dk = tl.arange(0, DK)
    dv = tl.arange(0, DV)
    row = tl.zeros([], tl.int64)
    above = row + row_count
    while row < above:
        middle = (row + above) // 2
        if tl.load(ends + middle) > tile:
            above = middle
        else:
            row = middle + 1
    while tile < final:
        end = tl.load(ends + row)
        keys_there = tl.load(lengths + row)
        begin = end - (keys_there + N - 1) // N
        start = (tile - begin) * N
        stop = tl.minimum((tl.minimum(end, final) - begin) * N, keys_there)
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
            scores = tl.dot(asked, tl.trans(keys), input_precision=PRECISION) * scale
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
                weights.to(values.dtype), values, input_precision=PRECISION
            )
            top = higher
        some = total > 0
        share = tl.where(some, total, 1.0)
        part = row + worker
        tl.store(
            out + (part * queries + m[:, None]) * V_WIDTH + dv[None, :],
            mixed / share[:, None],
            mask=(m[:, None] < queries) & (dv[None, :] < V_WIDTH),
        )
        tl.store(
            lse + part * queries + m,
            tl.where(some, top + tl.log(share), -float("inf")),
            mask=m < queries,
        )
        tile = tl.minimum(end, final)
        if tile == end:
            row += 1
            # Rows without a key have no tile.
            while (row < row_count) & (tl.load(ends + tl.minimum(row, row_count - 1)) == end):
                row += 1


@triton.jit
def _merge(  # type: ignore[no-untyped-def]
    out, lse, lengths, ends, merged, queries, row_count, workers,
    M: tl.constexpr, N: tl.constexpr, DV: tl.constexpr, V_WIDTH: tl.constexpr,
):  # fmt: skip
    """Merge the parts of one row by their log-sum-exp."""
    row = tl.program_id(0).to(tl.int64)
    m = tl.arange(0, M)
    dv = tl.arange(0, DV)
    cell = (m[:, None] < queries) & (dv[None, :] < V_WIDTH)
    tiles = tl.load(ends + row_count - 1)
    workers = tl.maximum(tl.minimum(tiles, workers), 1)
    end = tl.load(ends + row)
    begin = end - (tl.load(lengths + row) + N - 1) // N
    top = tl.full([M], -float("inf"), tl.float32)
    total = tl.zeros([M], tl.float32)
    mixed = tl.zeros([M, DV], tl.float32)
    if begin < end:
        # Worker p reads tiles p T // P to (p + 1) T // P - 1, so tile t is of ((t + 1) P - 1) // T.
        first = ((begin + 1) * workers - 1) // tiles
        final = (end * workers - 1) // tiles
        for worker in range(first, final + 1):
            part = row + worker
            level = tl.load(lse + part * queries + m, mask=m < queries, other=-float("inf"))
            read = tl.load(
                out + (part * queries + m[:, None]) * V_WIDTH + dv[None, :], mask=cell, other=0.0
            )
            higher = tl.maximum(top, level)
            base = tl.where(higher == -float("inf"), 0.0, higher)
            kept, weight = tl.exp(top - base), tl.exp(level - base)
            total = total * kept + weight
            mixed = mixed * kept[:, None] + read * weight[:, None]
            top = higher
    share = tl.where(total > 0, total, 1.0)
    tl.store(
        merged + (row * queries + m[:, None]) * V_WIDTH + dv[None, :],
        (mixed / share[:, None]).to(merged.dtype.element_ty),
        mask=cell,
    )


def decode(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    valid: Tensor | None,
    *,
    scale: float | None,
    workers: int,
    causal: bool,
) -> Tensor:
    """Attend from few queries to caches of unequal length, in two launches.

    Args:
        q: `[B, H, L, Dk]`.
        k: `[B, Hk, S, Dk]`.
        v: `[B, Hk, S, Dv]`.
        valid: bool `[B, S]` or None; keys after the last valid one of a sequence are not read.
        scale: Defaults to 1 / sqrt(Dk).
        workers: Programs.
        causal: Whether query i sees keys up to i + S - L only.

    Returns:
        `[B, H, L, Dv]`; zero for queries that see no key.
    """
    batch, heads, length, width = q.shape
    key_heads, count = k.shape[1:3]
    wide, queries = v.shape[3], heads // key_heads * length
    k, v = (x if x.stride(3) == 1 else x.contiguous() for x in (k, v))
    if valid is None:
        lengths = torch.full((batch,), count, device=q.device)
    else:
        lengths = (valid * torch.arange(1, count + 1, device=q.device)).amax(1)
    lengths = lengths.repeat_interleave(key_heads)
    ends = (-(-lengths // TILE)).cumsum(0)
    rows = batch * key_heads
    out = q.new_empty(rows + workers, queries, wide, dtype=torch.float32)
    lse = out.new_empty(rows + workers, queries)
    merged = q.new_empty(batch, heads, length, wide)
    tiles = {
        "M": max(LEAST_ROWS, triton.next_power_of_2(queries)),
        "N": TILE,
        "DV": max(LEAST_ROWS, triton.next_power_of_2(wide)),
        "V_WIDTH": wide,
    }
    _decode[(workers,)](
        q.contiguous(), k, v, q if valid is None else valid.contiguous().view(torch.uint8),
        lengths, ends, out, lse, 1 / math.sqrt(width) if scale is None else scale,
        queries, length, count, rows, key_heads, *k.stride()[:3], *v.stride()[:3],
        HAS_VALID=valid is not None, CAUSAL=causal, **tiles,
        DK=max(LEAST_ROWS, triton.next_power_of_2(width)), K_WIDTH=width,
        PRECISION=precision(q.dtype), num_stages=2,
    )  # fmt: skip
    _merge[(rows,)](out, lse, lengths, ends, merged, queries, rows, workers, **tiles)
    return merged

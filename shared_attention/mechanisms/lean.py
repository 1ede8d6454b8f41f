"""LeanAttention: softmax attention with the keys of all sequences divided evenly over workers.

Mathematically this is softmax attention; what differs is the schedule. When few queries read
long caches of unequal length, one worker for each sequence and head leaves most idle. Here all
key tiles of all sequences stand in one line that is cut into equal parts, wherever the cuts fall
(as stream-K matrix products do), and partial results are merged by their log-sum-exp.

Source: Sanovar et al., Lean Attention, 2024 (arXiv:2405.10480), section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from shared_attention.errors import UnsupportedError
from shared_attention.inputs import Inputs, check_inputs
from shared_attention.kernels import support
from shared_attention.masks import Mask
from shared_attention.primitives.attend import attend, log_sum_exp
from shared_attention.primitives.segment_softmax import segment_softmax

TILE = 128
"""Keys that are never divided."""
MOST_QUERIES = 64
"""Queries of one key head, over all positions and the heads that share it, in the kernel."""


class Segment(NamedTuple):
    """Consecutive keys of one row that one worker reads."""

    row: int
    start: int
    stop: int


def split_evenly(lengths: Sequence[int], workers: int, tile: int = TILE) -> list[list[Segment]]:
    """Divide the key tiles of all rows over workers whose shares differ by one tile at most.

    Args:
        lengths: Number of keys of each row.
        workers: Number of workers.
        tile: Keys that are never divided.

    Returns:
        The segments of each worker, in order.
    """
    tiles = [-(-length // tile) for length in lengths]
    total, begin = sum(tiles), 0
    shares: list[list[Segment]] = [[] for _ in range(workers)]
    cuts = [w * total // workers for w in range(workers + 1)]
    for row, count in enumerate(tiles):
        for worker in range(workers):
            first = max(begin, cuts[worker]) - begin
            last = min(begin + count, cuts[worker + 1]) - begin
            if first < last:
                stop = min(last * tile, lengths[row])
                shares[worker].append(Segment(row, first * tile, stop))
        begin += count
    return shares


def merge_segments(outs: Tensor, lse: Tensor, rows: Tensor, count: int) -> Tensor:
    """Merge partial results of several rows at once, as `merge` does for two.

    Args:
        outs: `[n, ..., Dv]`, softmax attention within each segment.
        lse: `[n, ...]`, its log-sum-exp.
        rows: int64 `[n]`, the row of each segment.
        count: Number of rows.

    Returns:
        `[count, ..., Dv]`; zero for rows without a segment.
    """
    share = segment_softmax(lse, rows, count)
    return outs.new_zeros(count, *outs.shape[1:]).index_add(0, rows, outs * share[..., None])


def lean_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
    workers: int | None = None,
    tile: int = TILE,
) -> Tensor:
    """Attend with softmax; keys after the last valid one of a sequence are not read.

    On CUDA each worker is one program of a Triton kernel and a row is one sequence and key head.
    On CPU a row is one sequence, whose heads are computed together, and workers take turns.

    Args:
        q: `[B, H, L, Dk]`; meant for small L.
        k: `[B, Hk, S, Dk]`, Hk dividing H.
        v: `[B, Hk, S, Dv]`.
        mask: `masks.causal()`, `masks.keys(valid)` or both.
        bias: Not supported.
        scale: Defaults to 1 / sqrt(Dk).
        workers: Into how many parts the keys are cut; one for each core by default.
        tile: Keys that are never divided.

    Returns:
        `[B, H, L, Dv]`; zero for queries that see no key.

    Raises:
        UnsupportedError: The call needs something else.
    """
    inputs = check_inputs(q, k, v, mask, bias)
    reasons = why_not(inputs)
    if reasons:
        raise UnsupportedError(f"lean cannot serve this call: {', '.join(reasons)}")
    batch, count = q.shape[0], k.shape[2]
    valid = inputs.parts.keys
    if q.device.type == "cuda":
        from shared_attention.mechanisms.lean_kernel import decode

        workers = workers or torch.cuda.get_device_properties(q.device).multi_processor_count
        return decode(q, k, v, valid, scale=scale, workers=workers, causal=inputs.parts.causal)
    lengths = [count] * batch
    if valid is not None:
        position = torch.arange(1, count + 1, device=valid.device)
        lengths = (valid * position).amax(1).tolist() if count else [0] * batch
    shares = split_evenly(lengths, workers or torch.get_num_threads(), tile)
    segments = [segment for share in shares for segment in share]
    if not segments:
        return (q @ k.new_zeros(k.shape[-1], v.shape[-1])) * 0
    seen = None if mask is None else mask.to_dense(q.shape[2], count, q.device)
    seen = None if seen is None else seen.expand(batch, -1, -1, -1)
    parts = [_read(q, k, v, seen, segment, scale) for segment in segments]
    outs, lse = (torch.stack(each) for each in zip(*parts, strict=True))
    rows = torch.tensor([segment.row for segment in segments], device=q.device)
    return merge_segments(outs, lse, rows, batch).to(q.dtype)


def _read(
    q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, segment: Segment, scale: float | None
) -> tuple[Tensor, Tensor]:
    """Attend from one sequence to some of its keys: `(out [H, L, Dv], lse [H, L])`."""
    own, keys = slice(segment.row, segment.row + 1), slice(segment.start, segment.stop)
    mask = None if seen is None else seen[own, :, :, keys]
    wide = torch.promote_types(q.dtype, torch.float32)
    given = (x.to(wide) for x in (q[own], k[own, :, keys], v[own, :, keys]))
    out, _, scores = attend(*given, mask=mask, scale=scale)
    return out[0], log_sum_exp(scores)[0]


def why_not(inputs: Inputs) -> list[str]:
    """Say why a call cannot be served."""
    parts = inputs.parts
    reasons = []
    if parts.window is not None or parts.rest is not None:
        reasons.append("the mask has parts beyond causal and key padding")
    if inputs.bias is not None:
        reasons.append("it takes no bias")
    if inputs.k.shape[1] != inputs.v.shape[1]:
        reasons.append("keys and values have different numbers of heads")
    if inputs.q.device.type == "cuda":
        reasons += [each for each in support.why_not(inputs, trains=False) if each not in reasons]
        queries = inputs.q.shape[2] * inputs.q.shape[1] // max(inputs.k.shape[1], 1)
        if queries > MOST_QUERIES:
            reasons.append(f"{queries} queries read each key head, its kernel takes {MOST_QUERIES}")
    return reasons

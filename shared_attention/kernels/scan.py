"""The linear scan as Triton kernels: chunks in parallel, states between them in turn."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from shared_attention.kernels.support import LEAST, padded, precision
from shared_attention.primitives.first_gradient import first_gradient

TILE = 2**13
"""Bytes of the queries of one chunk: more, and the tiles of a program do not fit beside each
other in a processor's registers and shared memory."""
LONGEST = 64
"""Most positions of a chunk."""
LEAST_SUM = 1e-20
"""Floor of the sum of weights by which outputs are divided."""
STRONGEST = -128.0
"""Log decays are cut here: exp of less is zero in float32, so nothing changes."""


def scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None = None,
    state: Tensor | None = None,
    *,
    normalised: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return out_t = q_t S_t with S_t = diag(exp(log_decay_t)) S_{t-1} + k_t v_tᵀ.

    As `primitives.linear_scan` and `decayed_scan`, in the type of the inputs: products of half
    precision, sums in float32. Memory beside inputs and outputs is one state for each chunk of 64
    positions or fewer, and, with decays, their running sums. Gradients flow to every tensor, once.

    Args:
        q: `[B, H, L, F]`, F up to 128.
        k: `[B, H, L, F]`.
        v: `[B, H, L, D]`.
        log_decay: `[B, H, L, F]` or `[B, H, L, 1]`, at most 0; None for no decay.
        state: float32 `[B, H, F, D]` of earlier positions; `[B, H, F, D + 1]` where normalised,
            the last column the sum of keys.
        normalised: Divide by q_t · Σ_{j <= t} k_j; without decay only.

    Returns:
        `(out [B, H, L, D], state)`; the state is float32.
    """
    if log_decay is not None and normalised:
        raise ValueError("scan: normalised sums do not decay, give one of the two")
    start = None if state is None else state.float()
    start_sum = None
    if normalised and start is not None:
        start, start_sum = start[..., :-1], start[..., -1]
    out, last, last_sum = _Scan.apply(q, k, v, log_decay, start, start_sum, normalised)
    return out, torch.cat([last, last_sum[..., None]], -1) if normalised else last


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        log_decay: Tensor | None,
        start: Tensor | None,
        start_sum: Tensor | None,
        normalised: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (x.contiguous() for x in (q, k, v))
        sizes = _Sizes(q, v, log_decay is not None, normalised)
        sums = None if log_decay is None else _running_sums(log_decay, q, sizes.chunk)
        kept, last = _carry(sizes, k, v, None, sums, (start, start_sum), reverse=False)
        out = torch.empty_like(v)
        norm = q.new_empty(q.shape[:3] if normalised else 1, dtype=torch.float32)
        _kernels().outputs[(sizes.problems * sizes.chunks,)](
            q, k, v, q if sums is None else sums, *kept, out, norm, *sizes.shape, LEAST_SUM,
            **sizes.tiles, LEVELS=sizes.levels, num_stages=2,
        )  # fmt: skip
        ctx.save_for_backward(q, k, v, log_decay, start, start_sum, sums, *kept, out, norm)
        ctx.sizes = sizes
        ctx.mark_non_differentiable(*([] if normalised else [last[1]]))
        return out, *last

    @staticmethod
    @first_gradient
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, log_decay, start, start_sum, sums, *kept, out, norm = ctx.saved_tensors
        sizes, d_out = ctx.sizes, given[0]
        d_norm = norm
        if sizes.normalised:
            share = d_out / norm[..., None]
            d_norm = -(share * out).sum(-1, dtype=torch.float32) * (norm > LEAST_SUM)
            d_out = share
        d_out, d_norm = d_out.to(q.dtype).contiguous(), d_norm.contiguous()
        after = (given[1].contiguous(), given[2].contiguous() if sizes.normalised else None)
        d_kept, d_start = _carry(sizes, q, d_out, d_norm, sums, after, reverse=True)
        d_q, d_k, d_v = (torch.empty_like(x) for x in (q, k, v))
        d_decay = q.new_empty(q.shape if sizes.decays else 1, dtype=torch.float32)
        _kernels().gradients[(sizes.problems * sizes.chunks,)](
            q, k, v, q if sums is None else sums, *kept, *d_kept, d_out, d_norm,
            d_q, d_k, d_v, d_decay, *sizes.shape, **sizes.tiles, LEVELS=sizes.levels,
            num_warps=8, num_stages=1,
        )  # fmt: skip
        d_log = None
        if log_decay is not None:
            d_log = d_decay if log_decay.shape == q.shape else d_decay.sum(-1, keepdim=True)
            d_log = d_log.masked_fill(log_decay < STRONGEST, 0).to(log_decay.dtype)
        return (
            d_q,
            d_k,
            d_v,
            d_log,
            None if start is None else d_start[0],
            None if start_sum is None else d_start[1],
            None,
        )


class _Sizes:
    """How a scan is cut into programs."""

    def __init__(self, q: Tensor, v: Tensor, decays: bool, normalised: bool) -> None:
        batch, heads, length, width = q.shape
        self.heads = (batch, heads)
        self.problems = batch * heads
        self.decays, self.normalised = decays, normalised
        fitting = TILE // (padded(width) * q.element_size() * (2 if decays else 1))
        self.chunk = max(min(fitting, LONGEST), LEAST)
        self.chunks = -(-length // self.chunk)
        self.levels = self.chunk.bit_length() - 1
        self.shape = (length, self.chunks, width, v.shape[-1])
        self.tiles: dict[str, Any] = {
            "C": self.chunk,
            "F": padded(width),
            "V": min(padded(v.shape[-1]), 128 // q.element_size()),
            "DECAY": decays,
            "NORMAL": normalised,
            "PRECISION": precision(q.dtype),
        }


def _carry(
    sizes: _Sizes,
    rows: Tensor,
    values: Tensor,
    extra: Tensor | None,
    sums: Tensor | None,
    start: tuple[Tensor | None, Tensor | None],
    *,
    reverse: bool,
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return what the kernel keeps at each chunk and what is left in the end."""
    _, chunks, width, wide = sizes.shape
    kept = rows.new_empty(sizes.problems, chunks, width, wide)
    last = rows.new_empty(*sizes.heads, width, wide, dtype=torch.float32)
    summed = sizes.normalised
    kept_sum = last.new_empty((sizes.problems, chunks, width) if summed else 1)
    last_sum = last.new_empty((*sizes.heads, width) if summed else 1)
    first, first_sum = (last if x is None else x.contiguous() for x in start)
    f, w = min(sizes.tiles["F"], 64), sizes.tiles["V"]
    _kernels().carry[(sizes.problems, -(-width // f), -(-wide // w))](
        rows, values, kept_sum if extra is None else extra, rows if sums is None else sums,
        first, first_sum, kept, kept_sum, last, last_sum, *sizes.shape,
        **{**sizes.tiles, "F": f}, HAS_START=start[0] is not None, REVERSE=reverse,
        num_stages=2,
    )  # fmt: skip
    return (kept, kept_sum), (last, last_sum)


def _running_sums(log_decay: Tensor, q: Tensor, chunk: int) -> Tensor:
    """Running sums of the log decays within each chunk, float64 `[B, H, N, C, F]`."""
    steps = F.pad(log_decay.clamp(min=STRONGEST), (0, 0, 0, -q.shape[2] % chunk))
    sums = steps.unflatten(2, (-1, chunk)).cumsum(3, dtype=torch.float64)
    return sums.expand(*sums.shape[:-1], q.shape[-1]).contiguous()


def _kernels() -> Any:
    from shared_attention.kernels import scan_kernels

    return scan_kernels

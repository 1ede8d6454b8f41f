"""Softmax attention to blocks of keys as Triton kernels: a window, or blocks behind landmarks."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from shared_attention.kernels.support import padded, precision
from shared_attention.primitives.first_gradient import first_gradient

TILE = 64
"""Keys of a tile of the window, and queries of a program in half precision."""


class Reach(NamedTuple):
    """Which keys the queries see; the first two for a window, the others for landmarks."""

    left: int = 0
    right: int = 0
    block: int = 0
    """Positions of a block, its landmark included; 0 for a window."""
    causal: bool = False
    own: Tensor | None = None
    """Block that each query stands in, int32 `[B, L]`; -1 for none."""
    last: Tensor | None = None
    """Last position that each query sees, int32 `[B, L]`."""
    real: Tensor | None = None
    """Positions that are real, int32 `[B]`."""


def window(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    left: int,
    right: int,
    keys: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Attend to the keys from `left` before to `right` after each query, as `local_blocks` does.

    Time is that of the tiles of 64 keys that the window touches; memory beside inputs and outputs
    is one number per query. Gradients flow to q, k and v, once.

    Args:
        q: `[B, H, L, Dk]`, Dk up to 128.
        k: `[B, H, S, Dk]`; positions are aligned bottom-right.
        v: `[B, H, S, Dv]`.
        left: Earlier keys that are seen.
        right: Later keys that are seen.
        keys: bool `[B, S]`, the keys that are real.
        scale: Defaults to 1 / sqrt(Dk).

    Returns:
        `[B, H, L, Dv]`; zero for queries that see no key.
    """
    limit = q.shape[2] + k.shape[2]
    reach = Reach(left=min(left, limit), right=min(right, limit))
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    return _Blocks.apply(q, k, v, keys, reach, scale)


def landmarks(q: Tensor, k: Tensor, v: Tensor, *, reach: Reach, scale: float) -> Tensor:
    """Attend as `landmark_attention` does with all blocks, over keys packed to the front.

    Args:
        q: `[B, H, L, Dk]`, Dk up to 128.
        k: `[B, H, L, Dk]`.
        v: `[B, H, L, Dv]`.
        reach: Its `block` up to 128.
        scale: Of the scores.

    Returns:
        `[B, H, L, Dv]`; zero for queries that see no key.
    """
    return _Blocks.apply(q, k, v, None, reach, scale)


class _Blocks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, reach: Reach, scale: float
    ) -> Tensor:
        q, k, v = (x.contiguous() for x in (q, k, v))
        call = _Call(q, k, v, valid, reach, scale)
        out = q.new_empty(*q.shape[:3], v.shape[3])
        lse = q.new_empty(q.shape[:3], dtype=torch.float32)
        _kernels().forward[call.programs](
            q, k, v, *call.seen, out, lse, *call.sizes, **call.tiles, num_stages=2
        )
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.call = call
        return out

    @staticmethod
    @first_gradient
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        call = ctx.call
        inner = (d_out.float() * out.float()).sum(-1)
        given = (q, k, v, *call.seen, d_out.contiguous(), lse, inner)
        d_q, d_k, d_v = (torch.empty_like(x) for x in (q, k, v))
        kernels, rest = _kernels(), {**call.tiles, "num_warps": 8, "num_stages": 1}
        kernels.query_gradients[call.programs](*given, d_q, *call.sizes, **rest)
        kernels.key_gradients[call.key_programs](*given, d_k, d_v, *call.sizes, **rest)
        return d_q, d_k, d_v, None, None, None


class _Call:
    """What every kernel takes beside the tensors."""

    def __init__(
        self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, reach: Reach, scale: float
    ) -> None:
        batch, heads, length, width = q.shape
        count, wide = v.shape[2:]
        block = reach.block or TILE
        queries = TILE if q.element_size() == 2 else TILE // 2
        real = reach.real
        if real is None:
            real = torch.full((batch,), count, dtype=torch.int32, device=q.device)
        shown = real if valid is None else valid.contiguous().view(torch.uint8)
        own, last = (real if x is None else x.contiguous() for x in (reach.own, reach.last))
        self.seen = (shown, own, last, real.contiguous())
        offset = count - length
        self.sizes = (
            scale, length, count, width, wide, heads, block, offset, reach.left, reach.right
        )  # fmt: skip
        self.programs = (-(-length // queries), batch * heads)
        self.key_programs = (-(-count // block), batch * heads)
        self.tiles = {
            "M": queries,
            "N": padded(block),
            "D": padded(width),
            "W": padded(wide),
            "LANDMARK": reach.block > 0,
            "CAUSAL": reach.causal,
            "HAS_VALID": valid is not None,
            "PRECISION": precision(q.dtype),
        }


def _kernels() -> Any:
    from shared_attention.kernels import block_kernels

    return block_kernels

"""Sliding-window attention as ordinary attention of query blocks to the keys around them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from shared_attention.primitives.fused import fused_attention

SMALLEST_BLOCK = 32
LANES = 16
"""Keys per block are a multiple of this, for which processors' kernels are a fifth faster."""
PIECE = 2**19
"""Numbers that the blocks computed together read, per thread of the processor."""


class Beside(NamedTuple):
    """Keys that are offered to every block, beside those of its window."""

    k: Tensor
    """`[B, Hk, E, Dk]`."""
    v: Tensor
    """`[B, Hk, E, Dv]`."""
    mask: Tensor
    """Which query sees which of them, bool `[B or 1, L, E]`."""


def worth_blocking(left: int, right: int, keys: int) -> bool:
    """Say whether blocks beat one masked attention: the window is less than half of the keys."""
    return keys >= 2 * (left + right + 1)


def local_blocks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    left: int,
    right: int,
    keys: Tensor | None = None,
    scale: float | None = None,
    segments: Tensor | None = None,
    limits: tuple[Tensor, Tensor] | None = None,
    beside: Beside | None = None,
) -> Tensor:
    """Attend to the keys from `left` before to `right` after each query's position.

    Each block of C queries attends to the C + left + right keys around it, so time and memory
    are O(L · (C + left + right)); no L × S matrix exists. Positions are aligned bottom-right. On
    processors blocks are computed some at a time, in buffers that stay in the cache.

    Args:
        q: `[B, H, L, Dk]`.
        k: `[B, Hk, S, Dk]`, Hk dividing H.
        v: `[B, Hk, S, Dv]`.
        left: Earlier keys that are seen.
        right: Later keys that are seen.
        keys: bool `[B, S]`, the keys that are real.
        scale: Defaults to 1 / sqrt(Dk).
        segments: int `[B, S]` with L = S; only keys of the query's own segment are seen.
        limits: First and last key position that each query sees, int `[L]` each.
        beside: Keys that are seen as well; one softmax runs over both.

    Returns:
        `[B, H, L, Dv]`; zero for queries that see no key.
    """
    batch, heads, length, _ = q.shape
    count = k.shape[2]
    block = max((left + right) // 4, SMALLEST_BLOCK)
    blocks = -(-length // block)
    span = -(-(block + left + right) // LANES) * LANES
    before = left - (count - length)
    after = (blocks - 1) * block + span - before - count
    spare = blocks * block - length
    if keys is None:
        keys = torch.ones(1, count, dtype=torch.bool, device=q.device)
    else:
        k, v = (x.masked_fill(~keys[:, None, :, None], 0) for x in (k, v))

    query = torch.arange(block, device=q.device)[:, None]
    key = torch.arange(span, device=q.device)[None, :]
    seen = _Seen(
        band=(key >= query) & (key <= query + left + right),
        real=_spans(keys, before, after, span, block),
    )
    if limits is not None:
        first, last = (F.pad(x, (0, spare)).view(blocks, 1, block, 1) for x in limits)
        start = (torch.arange(blocks, device=q.device) * block - before).view(-1, 1, 1, 1)
        seen = seen._replace(limits=(first - start, last - start))
    if segments is not None:
        own = _tiled(segments, blocks, block)[..., None]
        seen = seen._replace(segments=(own, _spans(segments, before, after, span, block)))
    if beside is not None:
        seen = seen._replace(beside=_tiled(beside.mask.mT, blocks, block).mT)

    width = max(q.shape[3], v.shape[3], block)
    piece = _blocks_at_once(q.device, blocks, batch * heads * span * width)
    tiles = F.pad(q, (0, 0, 0, spare)).flatten(0, 1).unflatten(1, (blocks, block)).transpose(0, 1)
    keys_near, values_near = (
        _near(F.pad(x, (0, 0, before, after)).flatten(0, 1), span, block, piece) for x in (k, v)
    )
    outs = []
    for i, tile in enumerate(tiles.split(piece)):
        near = [keys_near[i], values_near[i]]
        if beside is not None:
            near = [_join(*pair) for pair in zip(near, (beside.k, beside.v), strict=True)]
        mask = seen.of(slice(i * piece, (i + 1) * piece))
        added = 1 - mask.to(q.dtype).reciprocal()
        if mask.shape[1] > 1 and heads > 1:
            added = added.repeat_interleave(heads, 1)
        outs.append(fused_attention(tile, *near, mask=added, scale=scale))
    out = outs[0] if len(outs) == 1 else torch.cat(outs)
    return out.transpose(0, 1).flatten(1, 2).unflatten(0, (batch, heads))[:, :, :length]


class _Seen(NamedTuple):
    """What decides which keys the queries of a block see; N blocks, b queries in each."""

    band: Tensor
    """`[b, span]`."""
    real: Tensor
    """`[N, B or 1, 1, span]`."""
    limits: tuple[Tensor, Tensor] | None = None
    """First and last place in the span, `[N, 1, b, 1]`."""
    segments: tuple[Tensor, Tensor] | None = None
    """Of queries and of keys, `[N, B, b, 1]` and `[N, B, 1, span]`."""
    beside: Tensor | None = None
    """`[N, B or 1, b, E]`."""

    def of(self, part: slice) -> Tensor:
        """The mask of some blocks, `[n, B or 1, b, span + E]`."""
        mask = self.band & self.real[part]
        if self.limits is not None:
            place = torch.arange(mask.shape[3], device=mask.device)
            first, last = (x[part] for x in self.limits)
            mask = mask & (place >= first) & (place <= last)
        if self.segments is not None:
            own, theirs = (x[part] for x in self.segments)
            mask = mask & (own == theirs)
        if self.beside is None:
            return mask
        also = self.beside[part]
        slots = max(mask.shape[1], also.shape[1])
        return torch.cat([x.expand(-1, slots, -1, -1) for x in (mask, also)], dim=-1)


def _tiled(x: Tensor, blocks: int, block: int) -> Tensor:
    """Cut `[..., L]` into blocks, `[N, ..., b]`."""
    spare = blocks * block - x.shape[-1]
    return F.pad(x, (0, spare)).unflatten(-1, (blocks, block)).movedim(-2, 0)


def _join(x: Tensor, extra: Tensor) -> Tensor:
    """Append to each block's keys `[n, B * H, span, D]` those `[B, H, E, D]` that all share."""
    return torch.cat([x, extra.flatten(0, 1).expand(len(x), -1, -1, -1)], dim=2)


def _blocks_at_once(device: torch.device, blocks: int, numbers: int) -> int:
    """How many blocks are computed together, each of which reads so many numbers."""
    if device.type != "cpu" or torch.compiler.is_compiling():
        return blocks
    return min(max(PIECE * torch.get_num_threads() // max(numbers, 1), 1), blocks)


def _near(x: Tensor, span: int, block: int, piece: int) -> tuple[Tensor, ...]:
    """Cut `[N, S, D]` into the keys around each block, `piece` blocks at a time `[n, N, span, D]`.

    Nothing is copied but what spans of neighbouring pieces share, and that for gradients only.
    """
    if torch.compiler.is_compiling() or not (x.requires_grad and torch.is_grad_enabled()):
        return _cut(x, span, block).split(piece)
    return _Near.apply(x, span, block, piece)


def _cut(x: Tensor, span: int, block: int) -> Tensor:
    return x.unfold(1, span, block).permute(1, 0, 3, 2)


class _Near(torch.autograd.Function):
    """Adds up the gradients of overlapping spans in one tensor, not in one for each piece."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, span: int, block: int, piece: int) -> tuple[Tensor, ...]:
        ctx.shape, ctx.span, ctx.block, ctx.piece = x.shape, span, block, piece
        step = piece * block
        parts = [x[:, i : i + step + span - block] for i in range(0, x.shape[1] - span + 1, step)]
        return tuple(_cut(part.clone(), span, block) for part in parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        count, length, width = ctx.shape
        block: int = ctx.block
        if torch.is_grad_enabled():
            x = gradients[0].new_zeros(ctx.shape).requires_grad_()
            near = _cut(x, ctx.span, block).split(ctx.piece)
            (total,) = torch.autograd.grad(near, x, gradients, create_graph=True)
            return total, None, None, None
        total = gradients[0].new_zeros(count, length + block, width)
        for i, gradient in enumerate(gradients):
            for first in range(0, gradient.shape[2], block):
                part = gradient[:, :, first : first + block].transpose(0, 1)
                start = i * ctx.piece * block + first
                rows = total[:, start : start + part.shape[1] * block].unflatten(1, (-1, block))
                rows[:, :, : part.shape[2]] += part
        return total[:, :length], None, None, None


def _spans(x: Tensor, before: int, after: int, span: int, block: int) -> Tensor:
    """Values `[B, S]` of the keys around each block, `[N, B, 1, span]`."""
    return F.pad(x, (before, after)).unfold(1, span, block).transpose(0, 1)[:, :, None]

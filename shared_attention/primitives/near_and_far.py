"""One softmax over a pixel's neighbours and keys that all pixels share, some samples at a time.

Neighbours are read as blocks of pixels with the ring around them, one matrix product each; what
belongs to a pixel lies on diagonals of that product, which a strided view reads and writes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from shared_attention.primitives.first_gradient import first_gradient
from shared_attention.primitives.grid_blocks import around_blocks, blocks, join_blocks

SCORES_AT_ONCE = 2**18
"""Scores in memory at a time for each core; more only if one sample has more."""
EPSILON = 1e-12
"""Least length by which a vector is divided, that of `functional.normalize`."""


class Cut(NamedTuple):
    """How a grid is cut into M blocks of n pixels, N = M n."""

    grid: tuple[int, int]
    size: int
    """Side of a block, at least window - 1."""
    window: int
    """Side of the neighbourhood, odd; m = window²."""
    place: Tensor
    """int64 `[n, m]`, where the neighbours of a pixel are among those around its block."""
    log_count: Tensor
    """Logarithm of the number of keys of each pixel in block order, `[N, 1]`."""


class Parts(NamedTuple):
    """What is learned or shared; gradients flow to all."""

    gain: Tensor
    """What normalised keys are multiplied by, `[H, 1]`, not zero."""
    embedding: Tensor
    """Added to normalised queries, `[H, 1, d]`."""
    shared: Tensor
    """`[B, H, d, m + P]`: directions of the weights without softmax, then P keys."""
    values: Tensor
    """`[B, H, P, d]`."""
    bias: Tensor
    """`[H, N, m + P]`, -inf outside the grid."""
    shift: Tensor
    """Added to the weights without softmax, `[H, 1, m]`."""


def near_and_far(q: Tensor, kv: Tensor, parts: Parts, cut: Cut) -> Tensor:
    """Attend from each pixel to its neighbours and to shared keys.

    With s = (q/|q| + embedding) log n: weights are softmax(s (gain k/|k|)ᵀ + bias) over neighbours
    and shared keys; those of neighbours grow by s sharedᵀ / log n + shift.

    Args:
        q: `[B, Y, X, H, d]`, float32 or wider.
        kv: `[B, Y, X, 2, H, d]`.
        parts: What is learned or shared.
        cut: How the grid is cut.

    Returns:
        `[B, Y, X, H * d]`.
    """
    quick = q.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    if torch.compiler.is_compiling() or not quick:
        return _plain(q, kv, parts, cut)
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q, kv, *parts)):
        return _NearAndFar.apply(q, kv, cut, *parts)
    return _Room(q, parts, cut).forward(q, kv)


def _plain(q: Tensor, kv: Tensor, parts: Parts, cut: Cut) -> Tensor:
    """The definition, for compilers and devices."""
    heads, near = q.shape[3], cut.window**2
    k, v = kv.unbind(3)
    around = torch.cat([F.normalize(k, dim=-1) * parts.gain, v], 3).flatten(3)
    around = around_blocks(around, cut.size, cut.window // 2).unflatten(3, (2 * heads, -1))
    k, v = around.permute(0, 3, 1, 2, 4).chunk(2, 1)
    q = blocks(F.normalize(q, dim=-1).flatten(3), cut.size).flatten(1, 2)
    q = (q.unflatten(2, (heads, -1)).transpose(1, 2) + parts.embedding) * cut.log_count
    own, far = (q @ parts.shared).split([near, parts.values.shape[2]], -1)
    place = cut.place.expand(*k.shape[:3], *cut.place.shape)
    scores = (q.unflatten(2, (k.shape[2], -1)) @ k.mT).gather(-1, place).flatten(2, 3)
    weights = (torch.cat([scores, far], -1) + parts.bias).softmax(-1)
    weights, far = weights.split([near, parts.values.shape[2]], -1)
    mixed = (weights + own / cut.log_count + parts.shift).unflatten(2, place.shape[2:4])
    spread = mixed.new_zeros(*place.shape[:4], k.shape[3]).scatter(-1, place, mixed)
    out = (spread @ v).flatten(2, 3) + far @ parts.values
    return join_blocks(
        out.transpose(1, 2).flatten(2).unflatten(1, place.shape[2:4]), cut.size, cut.grid
    )


class _NearAndFar(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, kv: Tensor, cut: Cut, *parts: Tensor) -> Tensor:
        own = Parts(*(part.detach() for part in parts))
        kept: list[Tensor] = []
        out = _Room(q, own, cut).forward(q.detach(), kv.detach(), kept)
        ctx.save_for_backward(q, kv, *parts, *kept)
        ctx.cut = cut
        return out

    @staticmethod
    @first_gradient
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        q, _, *rest = ctx.saved_tensors
        parts, kept = Parts(*rest[: len(Parts._fields)]), rest[len(Parts._fields) :]
        d_q, d_kv, d_parts = _Room(q, parts, ctx.cut).backward(d_out.reshape(q.shape), kept)
        return d_q, d_kv, None, *d_parts


class _Room:
    """Buffers for some samples, which are used again for the next."""

    def __init__(self, like: Tensor, parts: Parts, cut: Cut) -> None:
        batch, _, _, heads, width = like.shape
        self.parts, self.cut, self.near = parts, cut, cut.window**2
        self.rows, self.columns = (-(-n // cut.size) for n in cut.grid)
        blocks_, own, keys = self.rows * self.columns, cut.size**2, parts.bias.shape[2]
        self.side = cut.size + cut.window - 1
        scores = heads * blocks_ * own * (self.side**2 + keys)
        self.step = max(1, min(batch, SCORES_AT_ONCE * torch.get_num_threads() // scores))
        groups = self.step * heads
        self.q = like.new_empty(groups, blocks_ * own, width)
        self.ring = like.new_empty(2, groups * blocks_, self.side**2, width)
        self.product = like.new_empty(groups * blocks_, own, self.side**2)
        self.spread = torch.zeros_like(self.product)
        self.scores = like.new_empty(groups, blocks_ * own, keys)
        self.own = like.new_empty(groups, blocks_ * own, self.near)
        self.out = torch.empty_like(self.q)
        self.map = self._new_map(like, self.step)

    def forward(self, q: Tensor, kv: Tensor, kept: list[Tensor] | None = None) -> Tensor:
        parts, heads, near = self.parts, q.shape[3], self.near
        out = q.new_empty(q.shape)
        for at in range(0, len(q), self.step):
            part = slice(at, min(at + self.step, len(q)))
            count = part.stop - at
            if kept is not None:  # these outlive the loop
                self.q, self.scores, self.own = map(
                    torch.empty_like, (self.q, self.scores, self.own)
                )
                self.map = self._new_map(q, count)
            rows, scores, own, mixed = (
                x[: count * heads] for x in (self.q, self.scores, self.own, self.out)
            )
            self._to_blocks(q[part], rows)
            every = rows.unflatten(0, (count, heads))
            factor = self.cut.log_count / every.norm(dim=-1, keepdim=True).clamp_(min=EPSILON)
            every.mul_(factor).addcmul_(parts.embedding, self.cut.log_count)
            lengths = kv[part, :, :, 0].norm(dim=-1, keepdim=True).clamp_(min=EPSILON)
            share = parts.gain / lengths
            inner = self._inner(self.map[:count])
            torch.mul(kv[part, :, :, 0], share, out=inner[:, :, :, 0])
            inner[:, :, :, 1].copy_(kv[part, :, :, 1])
            k, v = self._rings(count, heads)
            blocked = rows.view(len(k), -1, q.shape[4])
            torch.bmm(rows, parts.shared[part].flatten(0, 1), out=scores)
            torch.div(scores[..., :near], self.cut.log_count, out=own)
            own.unflatten(0, (count, heads)).add_(parts.shift)
            product = torch.bmm(blocked, k.mT, out=self.product[: len(k)])
            self._window(scores).copy_(self._diagonals(product))
            scores.unflatten(0, (count, heads)).add_(parts.bias)
            torch.softmax(scores, -1, out=scores)
            own.add_(scores[..., :near])
            spread = self.spread[: len(k)]
            self._diagonals(spread).copy_(self._window(own))
            torch.bmm(spread, v, out=mixed.view(len(k), -1, q.shape[4]))
            mixed.baddbmm_(scores[..., near:], parts.values[part].flatten(0, 1))
            self._from_blocks(mixed, out[part])
            if kept is not None:
                kept += [rows, scores, own, self.map[:count], factor, share]
        return out.flatten(3)

    def backward(self, d_out: Tensor, kept: list[Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
        parts, heads, near, width = self.parts, d_out.shape[3], self.near, d_out.shape[4]
        d_q, log_count = torch.empty_like(d_out), self.cut.log_count
        d_kv = d_out.new_empty(*d_out.shape[:3], 2, heads, width)
        d = Parts(*(torch.zeros_like(x, memory_format=torch.contiguous_format) for x in parts))
        values = F.pad(parts.values, (0, 0, near, 0))
        d_ring, grades = torch.empty_like(self.ring), torch.empty_like(self.scores)
        d_map = self._new_map(d_out, self.step, self.cut.size)
        for number, at in enumerate(range(0, len(d_out), self.step)):
            part = slice(at, min(at + self.step, len(d_out)))
            count = part.stop - at
            rows, weights, mixed, self.map, factor, share = kept[6 * number : 6 * number + 6]
            d_mixed, d_scores, d_own, d_rows = (
                x[: count * heads] for x in (self.out, self.scores, self.own, self.q)
            )
            self._to_blocks(d_out[part], d_mixed)
            k, v = self._rings(count, heads)
            d_k, d_v = (x[: len(k)] for x in d_ring)
            blocked, d_blocked = (x.view(len(k), -1, width) for x in (rows, d_mixed))
            spread = self.spread[: len(k)]
            self._diagonals(spread).copy_(self._window(mixed))
            torch.bmm(spread.mT, d_blocked, out=d_v)
            product = torch.bmm(d_blocked, v.mT, out=self.product[: len(k)])
            self._window(d_own).copy_(self._diagonals(product))
            d_weights = torch.bmm(d_mixed, values[part].flatten(0, 1).mT, out=d_scores)
            d_weights[..., :near] = d_own
            torch.mul(d_weights, weights, out=grades[: len(weights)])
            d_scores = grades[: len(weights)]
            d_scores.addcmul_(weights, d_scores.sum(-1, keepdim=True), value=-1)
            for one in d_scores.unflatten(0, (count, heads)):
                d.bias.add_(one)
            self._diagonals(spread).copy_(self._window(d_scores))
            torch.bmm(spread.mT, blocked, out=d_k)
            torch.bmm(spread, k, out=d_rows.view(len(k), -1, width))
            d.shift.add_(d_own.unflatten(0, (count, heads)).sum((0, 2))[:, None])
            torch.div(d_own, log_count, out=d_scores[..., :near])
            d_rows.baddbmm_(d_scores, parts.shared[part].flatten(0, 1).mT)
            torch.bmm(rows.mT, d_scores, out=d.shared[part].flatten(0, 1))
            torch.bmm(weights[..., near:].mT, d_mixed, out=d.values[part].flatten(0, 1))
            self._d_rows(rows, d_rows, factor, d.embedding)
            self._from_blocks(d_rows, d_q[part])
            self._join_rings(d_ring, d_map[:count])
            self._d_keys(self._inner(d_map[:count]), share, d_kv[part], d.gain)
        return d_q, d_kv, list(d)

    def _d_rows(self, rows: Tensor, d_rows: Tensor, factor: Tensor, d_embedding: Tensor) -> None:
        """From the gradient of scaled queries to that of queries, in place."""
        given = d_rows.unflatten(0, factor.shape[:2])
        d_embedding.add_((self.cut.log_count.mT @ given).sum(0))
        unit = torch.div(rows.unflatten(0, factor.shape[:2]), self.cut.log_count)
        unit.sub_(self.parts.embedding)
        given.addcmul_(unit, (unit * given).sum(-1, keepdim=True), value=-1).mul_(factor)

    def _d_keys(self, d_inner: Tensor, share: Tensor, d_kv: Tensor, d_gain: Tensor) -> None:
        """From the gradient of scaled keys to that of keys."""
        keys, gain = self._inner(self.map)[:, :, :, 0], self.parts.gain
        d_keys = d_inner[:, :, :, 0]
        along = (keys * d_keys).sum(-1, keepdim=True).div_(gain)
        d_gain.add_(along.sum((0, 1, 2)))
        torch.addcmul(d_keys, keys, along.div_(gain), value=-1, out=d_kv[:, :, :, 0])
        d_kv[:, :, :, 0].mul_(share)
        d_kv[:, :, :, 1].copy_(d_inner[:, :, :, 1])

    def _new_map(self, like: Tensor, count: int, extra: int | None = None) -> Tensor:
        """Keys and values with zeros around them, `[count, Y', X', 2, H, d]`."""
        extra = self.side - self.cut.size if extra is None else extra
        sides = (n * self.cut.size + extra for n in (self.rows, self.columns))
        return like.new_zeros(count, *sides, 2, *like.shape[3:])

    def _inner(self, x: Tensor) -> Tensor:
        reach, (height, width) = self.cut.window // 2, self.cut.grid
        return x[:, reach : reach + height, reach : reach + width]

    def _to_blocks(self, x: Tensor, into: Tensor) -> None:
        """Lay `[b, Y, X, H, d]` out as `[b * H, N, d]`."""
        high, wide = (-n % self.cut.size for n in x.shape[1:3])
        if high or wide:
            x = F.pad(x, (0, 0, 0, 0, 0, wide, 0, high))
        self._as_grid(into, len(x)).copy_(self._as_blocks(x))

    def _from_blocks(self, x: Tensor, into: Tensor) -> None:
        if self.cut.grid == (self.rows * self.cut.size, self.columns * self.cut.size):
            self._as_blocks(into).copy_(self._as_grid(x, len(into)))
        else:
            x = self._as_grid(x, len(into)).permute(0, 2, 4, 3, 5, 1, 6)
            into.copy_(x.flatten(3, 4).flatten(1, 2)[:, : self.cut.grid[0], : self.cut.grid[1]])

    def _as_blocks(self, x: Tensor) -> Tensor:
        x = x.unflatten(2, (-1, self.cut.size)).unflatten(1, (-1, self.cut.size))
        return x.permute(0, 5, 1, 3, 2, 4, 6)

    def _as_grid(self, x: Tensor, count: int) -> Tensor:
        size = self.cut.size
        return x.view(count, -1, self.rows, self.columns, size, size, x.shape[-1])

    def _rings(self, count: int, heads: int) -> Tensor:
        """Keys and values around each block, `[2, b * H * M, side², d]`."""
        around = self.map[:count].unfold(1, self.side, self.cut.size)
        around = around.unfold(2, self.side, self.cut.size).permute(3, 0, 4, 1, 2, 6, 7, 5)
        rings = self.ring[:, : count * heads * self.rows * self.columns]
        rings.view(around.shape).copy_(around)
        return rings

    def _join_rings(self, rings: Tensor, into: Tensor) -> None:
        """Add up what belongs to the same pixel; what is around a block begins the next."""
        size, count, heads = self.cut.size, len(into), into.shape[4]
        shape = (count, heads, self.rows, self.columns, self.side, self.side, -1)
        rings = rings[:, : count * heads * self.rows * self.columns].view(2, *shape)
        rings = rings.permute(1, 3, 5, 4, 6, 0, 2, 7)
        cells = into.unflatten(2, (-1, size)).unflatten(1, (-1, size))
        cells[:, :-1, :, :-1].copy_(rings[:, :, :size, :, :size])
        cells[:, -1].zero_()
        cells[:, :-1, :, -1].zero_()
        over = self.side - size
        if over:
            cells[:, :-1, :, 1:, :over].add_(rings[:, :, :size, :, size:])
            cells[:, 1:, :over, :-1].add_(rings[:, :, size:, :, :size])
            cells[:, 1:, :over, 1:, :over].add_(rings[:, :, size:, :, size:])

    def _window(self, x: Tensor) -> Tensor:
        """View the neighbours' part of `[b * H, N, m + ...]` as `[b * H * M, s, s, w, w]`."""
        size, window, keys = self.cut.size, self.cut.window, x.shape[2]
        strides = (size**2 * keys, size * keys, keys, window, 1)
        count = x.shape[0] * x.shape[1] // size**2
        return x.as_strided((count, size, size, window, window), strides)

    def _diagonals(self, x: Tensor) -> Tensor:
        """View the neighbours among `[b * H * M, n, side²]` as `[b * H * M, s, s, w, w]`."""
        size, window, around = self.cut.size, self.cut.window, self.side**2
        strides = (size**2 * around, size * around + self.side, around + 1, self.side, 1)
        return x.as_strided((len(x), size, size, window, window), strides)

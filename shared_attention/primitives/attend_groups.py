"""Softmax attention within groups of rows, some groups at a time in buffers that stay in cache.

Rows of a group lie anywhere; they are read side by side, so scores between groups are never
computed. Groups of like size are taken together and long ones are cut. The backward pass is
written out, some groups at a time too; of the scores only the weights are kept.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from shared_attention.primitives.first_gradient import first_gradient

ROWS = 2048
"""Keys read at a time for each core."""
BLOCK = 64
"""Queries of each group whose scores are computed together."""
LANES = 16
"""Places are counted in multiples of this, for which processors' products are faster."""
HIDING = 1e20
"""What is taken from hidden scores. Finite, so that padding of a group gives no NaN."""


class Groups(NamedTuple):
    """Which rows attend to which."""

    queries: Tensor
    """int64 `[M]`, rows of q, group after group."""
    keys: Tensor
    """int64 `[M]`, rows of k and v, group after group."""
    sizes: Tensor
    """int64 `[G]`, how many queries, and as many keys, each group has."""
    window: tuple[int, int] | None = None
    """Keys of its group before and after a query's own place that it sees; None: all."""
    positions: tuple[Tensor, Tensor] | None = None
    """`[M]` and `[M]`: queries see keys of no greater position."""


def can_group(q: Tensor) -> bool:
    """Say whether `attend_groups` can serve: float32 or float64 on a processor, not compiled."""
    single = q.dtype in (torch.float32, torch.float64)
    return q.device.type == "cpu" and single and not torch.compiler.is_compiling()


def attend_groups(
    q: Tensor, k: Tensor, v: Tensor, groups: Groups, gain: Tensor | None = None
) -> Tensor:
    """Attend with softmax(q kᵀ / √D) v from the listed queries to the keys that each sees.

    Args:
        q: `[R, Dk]`.
        k: `[R', Dk]`.
        v: `[R', Dv]`.
        groups: Rows may be named more than once: outputs and gradients add up.
        gain: `[M]`, what the output of each listed query is multiplied by; no gradient flows to
            it. Outputs of queries that see no key mean nothing and need a gain of zero.

    Returns:
        `[R, Dv]`; zero where a row is not listed.
    """
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
        return _Attend.apply(q, k, v, groups, gain)
    return _attend(q, k, v, groups, gain, None)


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    groups: Groups,
    gain: Tensor | None,
    kept: list[Tensor] | None,
) -> Tensor:
    """Attend, and add the weights of each block to `kept`."""
    out = v.new_zeros(len(q), v.shape[1])
    tiles, mixed = Buffer(q), Buffer(q)
    memory = Buffer(q) if kept is None else q.new_empty
    for piece in _pieces(k, v, groups, gain):
        for block in piece.blocks(q, groups, tiles):
            weights = piece.weights(block, groups, memory)
            if kept is not None:
                kept.append(weights)
            shape = (*block.q.shape[:2], v.shape[1])
            found = torch.bmm(weights, block.v, out=mixed(*shape))
            out.index_add_(0, block.rows, found.mul_(block.gain).flatten(0, 1))
    return out


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, groups: Groups, gain: Tensor | None
    ) -> Tensor:
        ctx.groups, ctx.gain = groups, gain
        kept: list[Tensor] = []
        out = _attend(q, k, v, groups, gain, kept)
        ctx.save_for_backward(q, k, v, *kept)
        return out

    @staticmethod
    @first_gradient
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *kept = ctx.saved_tensors
        every = iter(kept)
        d_q, d_k, d_v = _zeros(q, k, v)
        d_out = d_out.contiguous()
        tiles, grades, outer, near, total_k, total_v = (Buffer(q) for _ in range(6))
        for piece in _pieces(k, v, ctx.groups, ctx.gain):
            sums = total_k(*piece.k.shape).zero_(), total_v(*piece.v.shape).zero_()
            for block in piece.blocks(q, ctx.groups, tiles):
                d_o = _read(d_out, block.rows, outer(*block.q.shape[:2], v.shape[1]))
                d_o.mul_(block.gain)
                weights = next(every)
                d_weights = torch.bmm(d_o, block.v.mT, out=grades(*weights.shape))
                d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
                for total, left, right in ((sums[0], d_scores, block.q), (sums[1], weights, d_o)):
                    shape = (left.shape[0], left.shape[2], right.shape[2])
                    total[:, block.span] += torch.bmm(left.mT, right, out=near(*shape))
                d_rows = torch.bmm(d_scores, block.k, out=outer(*block.q.shape))
                d_rows.mul_(1 / math.sqrt(q.shape[1]))
                d_q.index_add_(0, block.rows, d_rows.flatten(0, 1))
            for d_x, total in zip((d_k, d_v), sums, strict=True):
                d_x.index_add_(0, piece.rows.flatten(), total.flatten(0, 1))
        return d_q, d_k, d_v, None, None


def _zeros(*tensors: Tensor) -> Sequence[Tensor]:
    """Return zeros of these shapes, in one piece of memory: allocators keep large ones longer."""
    sizes = [x.numel() for x in tensors]
    parts = tensors[0].new_zeros(sum(sizes)).split(sizes)
    return [part.view(x.shape) for part, x in zip(parts, tensors, strict=True)]


class Buffer:
    """Memory that is used again: fresh memory costs more than computing in it."""

    def __init__(self, like: Tensor) -> None:
        self.memory = like.new_empty(0)

    def __call__(self, *shape: int) -> Tensor:
        """Return a tensor of this shape, with anything in it."""
        size = math.prod(shape)
        if size > len(self.memory):
            self.memory = self.memory.new_empty(size)
        return self.memory[:size].view(shape)


class _Block(NamedTuple):
    """Some queries of each group of a piece."""

    rows: Tensor
    """`[n * b]`, the rows of q."""
    q: Tensor
    """`[n, b, D]`, scaled."""
    k: Tensor
    """`[n, span, D]`, a view, as `v`."""
    v: Tensor
    span: slice
    """Which keys of the piece these are."""
    places: Tensor
    """`[n, b]`, the queries' places in the list."""
    own: int
    """Place of the first query among the keys of `span`."""
    gain: Tensor
    """`[n, b, 1]`, zero for padding."""


class _Piece(NamedTuple):
    """Some groups of like size. Shorter ones are padded by their last row."""

    places: Tensor
    """int64 `[n, c]`, the queries' places in the list."""
    gain: Tensor
    """`[n, c, 1]`, zero for padding."""
    rows: Tensor
    """int64 `[n, s]`, rows of k and v."""
    k: Tensor
    """`[n, s, D]`."""
    v: Tensor
    before: int
    """Keys before the first query."""
    padding: Tensor | None
    """What is taken from scores of keys, `[n, 1, s]`."""
    positions: Tensor | None
    """Of keys, `[n, 1, s]`."""

    def blocks(self, q: Tensor, groups: Groups, tiles: Buffer) -> Iterator[_Block]:
        """Read the queries, some of each group at a time."""
        count, length = self.places.shape
        end, scale = self.k.shape[1], 1 / math.sqrt(q.shape[1])
        left, right = groups.window or (end, end)
        for at in range(0, length, BLOCK):
            part = slice(at, at + BLOCK)
            places = self.places[:, part]
            rows = groups.queries[places.flatten()]
            tile = _read(q, rows, tiles(count, places.shape[1], q.shape[1])).mul_(scale)
            own = self.before + at
            low = max(own - left, 0) // LANES * LANES
            span = slice(low, min(own + places.shape[1] + right, end))
            near = self.k[:, span], self.v[:, span]
            yield _Block(rows, tile, *near, span, places, own - low, self.gain[:, part])

    def weights(self, block: _Block, groups: Groups, memory: Callable[..., Tensor]) -> Tensor:
        """Softmax of the scores of a block, `[n, b, span]`."""
        count, size, _ = block.q.shape
        span = block.k.shape[1]
        scores = torch.bmm(block.q, block.k.mT, out=memory(count, size, span))
        left, right = groups.window or (span, span)
        if block.own + size - 1 > left or span - 1 > block.own + right:
            scores.sub_(_outside(size, span, block.own, left, right, scores.dtype))
        if self.padding is not None:
            scores.sub_(self.padding[:, :, block.span])
        if self.positions is not None and groups.positions is not None:
            position = groups.positions[0][block.places][..., None].to(scores.dtype)
            later = (self.positions[:, :, block.span] - position).clamp_(min=0)
            scores.sub_(later, alpha=HIDING)
        return torch.softmax(scores, -1, out=scores)


@functools.lru_cache(maxsize=64)
def _outside(size: int, span: int, own: int, left: int, right: int, dtype: torch.dtype) -> Tensor:
    step = torch.arange(span) - torch.arange(own, own + size)[:, None]
    return ((step < -left) | (step > right)).to(dtype) * HIDING


def _pieces(k: Tensor, v: Tensor, groups: Groups, gain: Tensor | None) -> Iterator[_Piece]:
    """Read the keys and values of some groups at a time; their memory is used again."""
    keys, values = Buffer(k), Buffer(v)
    rows, positions = ROWS * torch.get_num_threads(), groups.positions
    for before, chunks in _chunks(groups):
        starts, sizes, own, counts = chunks
        lengths, most = counts.tolist(), sizes.tolist()
        at = 0
        while at < len(lengths):
            end = -(-max(most[at], 1) // LANES) * LANES
            stop = min(at + max(1, rows // end), len(lengths))
            part = slice(at, stop)
            end = -(-max(most[part]) // LANES) * LANES
            step = torch.arange(max(end, lengths[at]))
            seen = starts[part, None] + torch.minimum(step[:end], sizes[part, None] - 1)
            length = min(-(-lengths[at] // LANES) * LANES, end)
            real = step[:length] < counts[part, None]
            places = own[part, None] + torch.minimum(step[:length], counts[part, None] - 1)
            factor = real.to(k.dtype)
            if gain is not None:
                factor = factor * gain[places]
            index = groups.keys[seen]
            shape = (stop - at, end)
            ahead = groups.window is None or groups.window[1] > 0
            absent = step[:end] >= sizes[part, None]
            hides = ahead and bool(absent.any())
            yield _Piece(
                places,
                factor[..., None],
                index,
                _read(k, index.flatten(), keys(*shape, k.shape[1])),
                _read(v, index.flatten(), values(*shape, v.shape[1])),
                before,
                absent.to(k.dtype)[:, None] * HIDING if hides else None,
                None if positions is None else positions[1][seen][:, None].to(k.dtype),
            )
            at = stop


def _chunks(groups: Groups) -> Iterator[tuple[int, tuple[Tensor, Tensor, Tensor, Tensor]]]:
    """Cut groups that are much longer than the window, the longest pieces first.

    Yields the keys before the first query, and for each piece the first key's place, the number
    of keys, the first query's place and the number of queries.
    """
    sizes = groups.sizes[groups.sizes > 0]
    starts = (groups.sizes.cumsum(0) - groups.sizes)[groups.sizes > 0]
    left, right = groups.window or (0, 0)
    longest = int(sizes.max()) if len(sizes) else 1
    if groups.window is not None:
        longest = -(-max(2 * (left + right), 128) // BLOCK) * BLOCK
    first = sizes.clamp(max=longest)
    yield 0, _by_size(starts, torch.minimum(first + right, sizes), starts, first)
    times = (sizes - 1) // longest
    if not times.any():
        return
    of = torch.arange(len(sizes)).repeat_interleave(times)
    number = torch.arange(len(of)) - (times.cumsum(0) - times)[of] + 1
    own = starts[of] + number * longest
    ends = (starts + sizes)[of]
    count = (ends - own).clamp(max=longest)
    yield (
        left,
        _by_size(own - left, torch.minimum(own + count + right, ends) - own + left, own, count),
    )


def _by_size(*chunks: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    order = chunks[3].argsort(descending=True, stable=True)
    starts, sizes, own, counts = (x[order] for x in chunks)
    return starts, sizes, own, counts


def _read(x: Tensor, rows: Tensor, into: Tensor) -> Tensor:
    torch.index_select(x, 0, rows, out=into.view(-1, x.shape[1]))
    return into

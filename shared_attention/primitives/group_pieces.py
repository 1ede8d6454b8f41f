"""Groups of rows that lie anywhere, read side by side, some groups at a time.

Groups of like size are taken together and long ones are cut; what is read is written to memory
that is used again and stays in cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

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


class Block(NamedTuple):
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


class Piece(NamedTuple):
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

    def blocks(self, q: Tensor, groups: Groups, tiles: Buffer) -> Iterator[Block]:
        """Read the queries, some of each group at a time."""
        count, length = self.places.shape
        end, scale = self.k.shape[1], 1 / math.sqrt(q.shape[1])
        left, right = groups.window or (end, end)
        for at in range(0, length, BLOCK):
            part = slice(at, at + BLOCK)
            places = self.places[:, part]
            rows = groups.queries[places.flatten()]
            tile = read(q, rows, tiles(count, places.shape[1], q.shape[1])).mul_(scale)
            own = self.before + at
            low = max(own - left, 0) // LANES * LANES
            span = slice(low, min(own + places.shape[1] + right, end))
            near = self.k[:, span], self.v[:, span]
            yield Block(rows, tile, *near, span, places, own - low, self.gain[:, part])


def pieces(k: Tensor, v: Tensor, groups: Groups, gain: Tensor | None) -> Iterator[Piece]:
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
            yield Piece(
                places,
                factor[..., None],
                index,
                read(k, index.flatten(), keys(*shape, k.shape[1])),
                read(v, index.flatten(), values(*shape, v.shape[1])),
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


def read(x: Tensor, rows: Tensor, into: Tensor) -> Tensor:
    """Write the rows of `x` to `into` and return it."""
    torch.index_select(x, 0, rows, out=into.view(-1, x.shape[1]))
    return into

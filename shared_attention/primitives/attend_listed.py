"""Softmax attention of rows named in lists, a few blocks at a time in buffers that stay in cache.

Gathering all queries, keys and values first would write and read each of them several times, and
masks of every block would be as large as the scores. Here both live for some blocks only, and the
backward pass is written out: batched products, with gradients added to the rows that were read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

SCORES_AT_ONCE = 2**17
"""Scores in memory at a time for each core: half a float32 megabyte stays in its cache."""
HIDING = 1e20
"""What is taken from hidden scores. Finite, so that padding of a block gives no NaN."""


class Lists(NamedTuple):
    """Which rows attend to which: `block` queries of the list at a time."""

    queries: Tensor
    """int64 `[M]`, the rows of q."""
    keys: Tensor
    """int64 `[S]`, the rows of k and v."""
    block: int
    """Queries of a block. Without `window` they see the keys of the same places in the list."""
    window: tuple[int, int] | None = None
    """Keys before and after a query's own place that it sees; then M equals S and labels are
    needed."""
    labels: tuple[Tensor, Tensor] | None = None
    """`[M]` and `[S]`, whole numbers from 0 on, exact in the type of q: a query sees keys of its
    own label. In order of place where there is a window."""
    causal: bool = False
    """Without a window: a query sees keys of its own label and of smaller ones."""


def can_list(q: Tensor) -> bool:
    """Say whether `attend_listed` can serve: float32 or float64 on a processor, not compiled."""
    single = q.dtype in (torch.float32, torch.float64)
    return q.device.type == "cpu" and single and not torch.compiler.is_compiling()


def attend_listed(q: Tensor, k: Tensor, v: Tensor, lists: Lists) -> Tensor:
    """Return softmax(q kᵀ / √D) v of the listed queries over the keys that each sees.

    Args:
        q: `[R, Dk]`.
        k: `[R', Dk]`.
        v: `[R', Dv]`.
        lists: Rows may be named more than once; their gradients add up.

    Returns:
        `[M, Dv]`, in the order of `lists.queries`. Queries that see no key get nothing useful.
    """
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
        return _Attend.apply(q, k, v, lists)
    return _attend(q, k, v, lists, None)


def _attend(q: Tensor, k: Tensor, v: Tensor, lists: Lists, kept: Tensor | None) -> Tensor:
    out = v.new_empty(_blocks(lists) * lists.block, v.shape[1])
    for piece in _pieces(q, k, v, lists):
        weights = torch.empty_like(piece.hidden) if kept is None else kept[piece.blocks]
        scores = torch.bmm(piece.q, piece.k.mT).sub_(piece.hidden)
        torch.softmax(scores, -1, out=weights)
        torch.bmm(weights, piece.v, out=out.view(-1, lists.block, v.shape[1])[piece.blocks])
    return out[: len(lists.queries)]


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, lists: Lists) -> Tensor:
        q, k, v = q.detach(), k.detach(), v.detach()
        kept = q.new_empty(_blocks(lists), lists.block, _span(lists))
        out = _attend(q, k, v, lists, kept)
        ctx.lists = lists
        ctx.save_for_backward(q, k, v, out, kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, out, kept = ctx.saved_tensors
        lists: Lists = ctx.lists
        d_q, d_k, d_v = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        inner = (d_out * out).sum(-1)
        for piece in _pieces(q, k, v, lists):
            weights = kept[piece.blocks]
            rows = slice(piece.blocks.start * lists.block, piece.blocks.stop * lists.block)
            missing = len(weights) * lists.block - len(d_out[rows])
            d_o = F.pad(d_out[rows], (0, 0, 0, missing)).view(len(weights), lists.block, -1)
            shift = F.pad(inner[rows], (0, missing)).view(len(weights), lists.block, 1)
            d_scores = torch.bmm(d_o, piece.v.mT).sub_(shift).mul_(weights)
            d_rows = torch.bmm(d_scores, piece.k).flatten(0, 1).mul_(1 / math.sqrt(q.shape[1]))
            d_q.index_add_(0, lists.queries[rows], d_rows[: len(d_rows) - missing])
            _add_up(d_k, torch.bmm(d_scores.mT, piece.q), lists, piece)
            _add_up(d_v, torch.bmm(weights.mT, d_o), lists, piece)
        return d_q, d_k, d_v, None


class _Piece(NamedTuple):
    """Some blocks: their queries `[n, b, D]`, scaled, and the keys that each sees."""

    blocks: slice
    q: Tensor
    k: Tensor
    """`[n, span, D]`, a view of overlapping rows, as `v`."""
    v: Tensor
    hidden: Tensor
    """What is taken from the scores, `[n, b, span]`."""
    first: int
    """Place in the list of the first key, which may lie before its start."""


def _blocks(lists: Lists) -> int:
    return -(-len(lists.queries) // lists.block)


def _span(lists: Lists) -> int:
    return lists.block + (0 if lists.window is None else sum(lists.window))


def _pieces(q: Tensor, k: Tensor, v: Tensor, lists: Lists) -> Iterator[_Piece]:
    """Read some blocks at a time; the buffers are used again for the next ones."""
    block, span, count = lists.block, _span(lists), _blocks(lists)
    left = 0 if lists.window is None else lists.window[0]
    step = max(1, min(count, SCORES_AT_ONCE * torch.get_num_threads() // (block * span)))
    buffers = [q.new_empty(step * block, q.shape[1])]
    buffers += [x.new_empty(step * block + span - block, x.shape[1]) for x in (k, v)]
    hidden = q.new_zeros(step, block, span)
    band = _band(lists, q)
    for start in range(0, count, step):
        stop = min(start + step, count)
        first, rows = start * block - left, (stop - start) * block
        tile = _read(q, lists.queries, start * block, buffers[0][:rows])
        tile.mul_(1 / math.sqrt(q.shape[1]))
        near = []
        for x, buffer in zip((k, v), buffers[1:], strict=True):
            read = _read(x, lists.keys, first, buffer[: rows + span - block])
            near.append(read.unfold(0, span, block).mT)
        part = hidden[: stop - start]
        if lists.labels is not None:
            own = _slice(lists.labels[0], start * block, rows, q).view(-1, block, 1)
            theirs = _slice(lists.labels[1], first, rows + span - block, q)
            torch.sub(theirs.unfold(0, span, block)[:, None], own, out=part)
            if lists.causal:
                part.clamp_(min=0)
            else:
                part.mul_(part)
            part.mul_(HIDING)
        if band is not None:
            part.add_(band)
        yield _Piece(slice(start, stop), tile.view(-1, block, q.shape[1]), *near, part, first)


def _band(lists: Lists, q: Tensor) -> Tensor | None:
    if lists.window is None:
        return None
    step = torch.arange(_span(lists)) - torch.arange(lists.block)[:, None]
    outside = (step < 0) | (step > sum(lists.window))
    return outside.to(q.dtype) * HIDING


def _read(x: Tensor, index: Tensor, first: int, into: Tensor) -> Tensor:
    """Read the rows of the list from `first` on; zeros where it has none."""
    low, high = max(first, 0), min(first + len(into), len(index))
    into[: low - first] = 0
    into[high - first :] = 0
    torch.index_select(x, 0, index[low:high], out=into[low - first : high - first])
    return into


def _slice(labels: Tensor, first: int, count: int, like: Tensor) -> Tensor:
    """Labels from `first` on; -1 before the list and the last one, plus 1, after it."""
    low, high = max(first, 0), min(first + count, len(labels))
    part = F.pad(labels[low:high].to(like.dtype), (low - first, 0), value=-1)
    return F.pad(part, (0, first + count - high), value=float(labels[-1]) + 1)


def _add_up(total: Tensor, near: Tensor, lists: Lists, piece: _Piece) -> None:
    """Add the gradients `[n, span, D]` of overlapping keys to the rows that were read."""
    block, (count, span, width) = lists.block, near.shape
    rows = near
    if span > block:
        rows = near.new_zeros(count + -(-span // block) - 1, block, width)
        for i, at in enumerate(range(0, span, block)):
            part = near[:, at : at + block]
            rows[i : i + count, : part.shape[1]] += part
    rows = rows.flatten(0, 1)
    low, high = max(piece.first, 0), min(piece.first + len(rows), len(lists.keys))
    total.index_add_(0, lists.keys[low:high], rows[low - piece.first : high - piece.first])

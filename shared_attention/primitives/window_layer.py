"""A whole layer of attention within windows, a few windows at a time.

What a layer computes between its input and its output (queries, keys, values, scores, weights,
heads) is several times as large as both. Taken a few windows at a time it stays in the cache, and
so do the gradients. One function for the two projections and the attention between them makes
that possible; its backward pass is written out. It computes the scores again where keeping the
weights would take much memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared_attention.primitives.first_gradient import first_gradient

SCORES_AT_ONCE = 2**18
"""Scores in memory at a time for each core: a float32 megabyte stays in its cache."""
ROWS_AT_ONCE = 1024
"""Positions at a time for each core where windows are too long for scores in the cache."""
KEPT = 2**23
"""Weights that a layer may keep for its gradients, 32 MiB in float32; of more it computes them
again."""
SHORT = 160
"""Length up to which batched products are faster than PyTorch's fused kernel on CPU."""


class Weights(NamedTuple):
    """Parameters of the two projections."""

    qkv: Tensor
    """`[3 * C, C]`."""
    qkv_bias: Tensor | None
    proj: Tensor
    """`[C, C]`."""
    proj_bias: Tensor | None


def serves(x: Tensor, *layers: nn.Module) -> bool:
    """Say whether `window_layer` may take the place of these linear layers on this input."""
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and all(isinstance(layer, nn.Linear) and _bare(layer) for layer in layers)
        and all(p.dtype == x.dtype for layer in layers for p in layer.parameters())
    )


def _bare(layer: nn.Linear) -> bool:
    """Say that calling the layer is a product with its weight and nothing else."""
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks)
    return type(layer).__module__.startswith("shared_attention.") and not any(hooks)


def window_layer(
    x: Tensor,
    there: Tensor,
    back: Tensor,
    weights: Weights,
    bias: Tensor,
    masks: Sequence[Tensor | None],
    sizes: Sequence[int],
) -> Tensor:
    """Project to q, k, v, attend within windows, project back: softmax(q kᵀ / √d + bias) v.

    Args:
        x: `[N, C]`.
        there: int64 `[W, n]`, the row of x of each position of each window; -1 is padding.
        back: int64 `[N]`, the inverse: the place of each row in the flattened windows.
        weights: The projections.
        bias: `[H, n, n]`.
        masks: G of bool `[n, n]`, True where a position may attend, somewhere in every row; None
            where nothing is hidden.
        sizes: G numbers of windows that add up to W, each group under one mask.

    Returns:
        `[N, C]`.
    """
    wanted = (x, bias, *(w for w in weights if w is not None))
    hidden = tuple(None if mask is None else ~mask for mask in masks)
    if torch.is_grad_enabled() and any(w.requires_grad for w in wanted):
        return _Layer.apply(x, there, back, tuple(sizes), hidden, *weights, bias)
    return _forward(x, there, back, weights, bias, hidden, sizes)


def window_attention(qkv: Tensor, biases: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """Attend within windows whose queries, keys and values are given.

    Args:
        qkv: `[W, n, 3, H, d]`.
        biases: G of `[H, n, n]`; -inf hides, but never a whole row.
        sizes: G numbers of windows that add up to W, each group under one bias.

    Returns:
        `[W, n, H * d]`.
    """
    q, k, v = qkv.transpose(1, 3).unbind(2)
    return attend_in_windows(q, k, v, biases, sizes)


def attend_in_windows(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    biases: Sequence[Tensor],
    sizes: Sequence[int],
    scale: float | None = None,
) -> Tensor:
    """Attend within windows: softmax(scale q kᵀ + bias) v.

    Args:
        q: `[W, H, n, d]`.
        k: `[W, H, n, d]`.
        v: `[W, H, n, e]`.
        biases: As for `window_attention`.
        sizes: As for `window_attention`.
        scale: 1 / √d by default.

    Returns:
        `[W, n, H * e]`.
    """
    outs = []
    cut = zip(*(x.split(list(sizes)) for x in (q, k, v)), strict=True)
    for (q_part, k_part, v_part), bias in zip(cut, biases, strict=True):
        mixed = F.scaled_dot_product_attention(
            q_part, k_part, v_part, attn_mask=bias[None], scale=scale
        )
        if torch.compiler.is_compiling():  # other targets lay the output of attention out anew
            outs.append(torch.cat(mixed.unbind(1), -1))
        else:
            outs.append(mixed.transpose(1, 2).flatten(2))
    return outs[0] if len(outs) == 1 else torch.cat(outs)


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        there: Tensor,
        back: Tensor,
        sizes: Sequence[int],
        hidden: Sequence[Tensor | None],
        *parameters: Tensor | None,
    ) -> Tensor:
        kept = x, there, back, *parameters
        x = x.detach()
        given: list[Any] = [None if p is None else p.detach() for p in parameters]
        weights, bias = Weights(*given[:4]), given[4]
        heads, length = bias.shape[:2]
        qkv = x.new_empty(3, len(there) * heads, length, x.shape[1] // heads)
        mixed = x.new_empty(*there.shape, x.shape[1])
        few = qkv.shape[1] * length**2 <= KEPT
        kept_weights = x.new_empty(qkv.shape[1], length, length) if few else None
        keep = qkv, mixed, kept_weights
        out = _forward(x, there, back, weights, bias, hidden, sizes, keep)
        ctx.save_for_backward(*keep, *kept)
        ctx.sizes, ctx.hidden = sizes, hidden
        return out

    @staticmethod
    @first_gradient
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        qkv, mixed, kept, x, there, back, w_qkv, _, w_proj, _, bias = ctx.saved_tensors
        needs_x, _, _, _, _, _, needs_b_qkv, _, needs_b_proj, _ = ctx.needs_input_grad
        d_out, heads = d_out.contiguous(), len(bias)
        rows, d_x = _Rows(there), x.new_empty(*there.shape, x.shape[1]) if needs_x else None
        d_w_qkv, d_w_proj = torch.zeros_like(w_qkv), torch.zeros_like(w_proj)
        d_b_qkv, d_bias = x.new_zeros(len(w_qkv)), torch.zeros_like(bias)
        for part in _some(len(there), ROWS_AT_ONCE // there.shape[1]):
            d_y, own = rows.read(d_out, part), mixed[part].flatten(0, 1)
            d_w_proj.addmm_(d_y.T, own)
            d_mixed = d_y @ w_proj
            inner = (d_mixed * own).view(*there[part].shape, heads, -1).sum(-1)
            d_mixed = d_mixed.view(mixed[part].shape)
            d_qkv = x.new_empty(*d_mixed.shape[:2], 3 * x.shape[1])
            for piece in _pieces(part, ctx.sizes, bias.shape):
                rows_of = piece.rows(part.start)
                _attend_backward(
                    qkv[:, rows_of],
                    None if kept is None else kept[rows_of],
                    piece.own(d_mixed, 1),
                    inner[piece.windows, :, piece.heads],
                    bias[piece.heads],
                    ctx.hidden[piece.group],
                    d_bias[piece.heads],
                    piece.own(d_qkv, 3),
                )
            d_qkv = d_qkv.flatten(0, 1)
            d_w_qkv.addmm_(d_qkv.T, rows.read(x, part))
            d_b_qkv += d_qkv.sum(0)
            if d_x is not None:
                torch.mm(d_qkv, w_qkv, out=d_x[part].flatten(0, 1))
        return (
            None if d_x is None else F.embedding(back, d_x.flatten(0, 1)),
            None,
            None,
            None,
            None,
            d_w_qkv,
            d_b_qkv if needs_b_qkv else None,
            d_w_proj,
            d_out.sum(0) if needs_b_proj else None,
            d_bias,
        )


def _forward(
    x: Tensor,
    there: Tensor,
    back: Tensor,
    weights: Weights,
    bias: Tensor,
    hidden: Sequence[Tensor | None],
    sizes: Sequence[int],
    keep: tuple[Tensor, Tensor, Tensor | None] | None = None,
) -> Tensor:
    """Compute the layer without a graph.

    `keep` gets q, k, v, what attention returned, and its weights where there is a third tensor.
    """
    heads, length = bias.shape[:2]
    kept = None if keep is None else keep[2]
    fused = length > SHORT and kept is None
    space = torch.empty_like(bias) if fused and any(h is not None for h in hidden) else None
    rows, out = _Rows(there), x.new_empty(*there.shape, x.shape[1])
    for part in _some(len(there), ROWS_AT_ONCE // length):
        own = rows.read(x, part)
        projected = x.new_empty(len(own), 3 * x.shape[1])
        _project(own, weights.qkv, weights.qkv_bias, projected)
        projected = projected.view(-1, length, 3, heads, x.shape[1] // heads)
        if keep is None:
            qkv, mixed = _heads(projected), torch.empty_like(out[part])
        else:
            qkv, mixed = keep[0][:, part.start * heads : part.stop * heads], keep[1][part]
            qkv.unflatten(1, (-1, heads)).copy_(projected.permute(2, 0, 3, 1, 4))
        if fused:
            for group, at in _alike(part, sizes, len(there)):
                own = qkv[:, at.start * heads : at.stop * heads]
                _attend_fused(own, bias, hidden[group], mixed[at], space)
        else:
            for piece in _pieces(part, sizes, bias.shape):
                _attend(
                    qkv[:, piece.rows(0)],
                    bias[piece.heads],
                    hidden[piece.group],
                    piece.own(mixed, 1)[:, :, 0],
                    None if kept is None else kept[piece.rows(part.start)],
                )
        _project(mixed.flatten(0, 1), weights.proj, weights.proj_bias, out[part].flatten(0, 1))
    return F.embedding(back, out.flatten(0, 1))


class _Rows:
    """Reads the rows of some windows, zeros where they are padding."""

    def __init__(self, there: Tensor) -> None:
        padding = there < 0
        self.padding = padding[..., None] if padding.any() else None
        self.rows = there if self.padding is None else there.clamp(min=0)

    def read(self, x: Tensor, part: slice) -> Tensor:
        taken = F.embedding(self.rows[part], x)
        if self.padding is not None:
            taken.masked_fill_(self.padding[part], 0)
        return taken.flatten(0, 1)


def _some(count: int, step: int) -> Iterator[slice]:
    """Cut a range into even parts of about `step` for each core."""
    step = max(1, step) * torch.get_num_threads()
    step = -(-count // -(-count // step))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def _alike(part: slice, sizes: Sequence[int], step: int) -> Iterator[tuple[int, slice]]:
    """Cut a part of all windows into those of one group; places count from the part's start."""
    stop = 0
    for group, size in enumerate(sizes):
        start, stop = max(stop, part.start), stop + size
        last = min(stop, part.stop)
        if start < last:
            for some in _some(last - start, step):
                at = start - part.start
                yield group, slice(at + some.start, at + some.stop)


class _Piece(NamedTuple):
    """Windows and heads taken at a time: all heads of some windows, or some heads of one."""

    group: int
    windows: slice
    """Counted from the start of the part."""
    heads: slice
    of_heads: int

    def rows(self, start: int) -> slice:
        """Places in `[W * H]` where the part's first window is the window `start`."""
        first = (start + self.windows.start) * self.of_heads
        if self.windows.stop - self.windows.start > 1:
            return slice(first, (start + self.windows.stop) * self.of_heads)
        return slice(first + self.heads.start, first + self.heads.stop)

    def own(self, x: Tensor, parts: int) -> Tensor:
        """Cut `[W, n, parts * H * d]` to `[W, n, parts, H * d]` of this piece, a view."""
        x = x[self.windows].unflatten(2, (parts, self.of_heads, -1))
        return x[:, :, :, self.heads].flatten(3)


def _pieces(part: slice, sizes: Sequence[int], shape: Sequence[int]) -> Iterator[_Piece]:
    """Cut a part of all windows into pieces whose scores `[H, n, n]` fit the cache."""
    heads, length, _ = shape
    windows = SCORES_AT_ONCE // (heads * length**2)
    for group, at in _alike(part, sizes, windows):
        if windows:
            yield _Piece(group, at, slice(0, heads), heads)
            continue
        for window in range(at.start, at.stop):
            for some in _some(heads, SCORES_AT_ONCE // length**2):
                yield _Piece(group, slice(window, window + 1), some, heads)


def _project(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """Write `x weightᵀ + bias` to `out`."""
    if bias is None:
        torch.mm(x, weight.T, out=out)
    else:
        torch.addmm(bias, x, weight.T, out=out)


def _weights(
    q: Tensor, k: Tensor, bias: Tensor, hidden: Tensor | None, out: Tensor | None = None
) -> Tensor:
    """Weights `[W * H, n, n]` of queries and keys `[W * H, n, d]`."""
    scores = bias.repeat(len(q) // len(bias), 1, 1)
    scores.baddbmm_(q, k.mT, alpha=1 / math.sqrt(q.shape[-1]))
    if hidden is not None:
        scores.masked_fill_(hidden, -math.inf)
    return torch.softmax(scores, -1) if out is None else torch.softmax(scores, -1, out=out)


def _heads(x: Tensor) -> Tensor:
    """Lay `[W, n, parts, H, d]` out as `[parts, W * H, n, d]`."""
    return x.permute(2, 0, 3, 1, 4).reshape(x.shape[2], -1, x.shape[1], x.shape[4])


def _attend(
    qkv: Tensor, bias: Tensor, hidden: Tensor | None, out: Tensor, kept: Tensor | None
) -> None:
    """Attend in `qkv [3, W * H, n, d]`; writes `out [W, n, H * d]` and weights to keep."""
    q, k, v = qkv.unbind(0)
    _put(torch.bmm(_weights(q, k, bias, hidden, kept), v), out)


def _put(x: Tensor, out: Tensor) -> None:
    """Write `[W * H, n, d]` to `[W, n, H * d]`."""
    x = x.unflatten(0, (len(out), -1)).transpose(1, 2)
    out.unflatten(2, x.shape[2:]).copy_(x)


def _attend_fused(
    qkv: Tensor, bias: Tensor, hidden: Tensor | None, out: Tensor, space: Tensor | None
) -> None:
    """As `_attend` by PyTorch's kernel; the bias with its mask is written to `space`."""
    if hidden is not None and space is not None:
        bias = space.copy_(bias).masked_fill_(hidden, -math.inf)
    q, k, v = qkv.unflatten(1, (-1, len(bias))).unbind(0)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])
    out.unflatten(2, (len(bias), -1)).copy_(mixed.transpose(1, 2))


def _attend_backward(
    qkv: Tensor,
    weights: Tensor | None,
    d_out: Tensor,
    inner: Tensor,
    bias: Tensor,
    hidden: Tensor | None,
    d_bias: Tensor,
    d_qkv: Tensor,
) -> None:
    """Add to the gradient of the bias and write `d_qkv`.

    Args:
        qkv: `[3, W * H, n, d]`.
        weights: `[W * H, n, n]`, or None where they were not kept.
        d_out: `[W, n, 1, H * d]`.
        inner: Product of each output with its gradient, which softmax subtracts, `[W, n, H]`.
        bias: `[H, n, n]`.
        hidden: bool `[n, n]` or None.
        d_bias: `[H, n, n]`.
        d_qkv: `[W, n, 3, H * d]`.
    """
    q, k, v = qkv.unbind(0)
    (d_o,) = _heads(d_out.unflatten(3, (len(bias), -1)))
    d_q, d_k, d_v = d_qkv.unbind(2)
    weights = _weights(q, k, bias, hidden) if weights is None else weights
    _put(torch.bmm(weights.mT, d_o), d_v)
    d_scores = torch.bmm(d_o, v.mT)
    d_scores.sub_(inner.transpose(1, 2).reshape(len(q), -1, 1)).mul_(weights)
    one_window = len(q) == len(bias)
    d_bias += d_scores if one_window else d_scores.unflatten(0, (-1, len(bias))).sum(0)
    scale = 1 / math.sqrt(q.shape[-1])
    _put(torch.bmm(d_scores, k * scale), d_q)
    _put(torch.bmm(d_scores.mT, q * scale), d_k)

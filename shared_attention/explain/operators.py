"""Effective matrices of operators on sequences, grids and graphs, where they have one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from shared_attention.errors import UnsupportedError
from shared_attention.explain.matrix import spec_of
from shared_attention.masks import Mask, split
from shared_attention.mechanisms.channel import ChannelAttention
from shared_attention.mechanisms.graph_attention import GraphAttention
from shared_attention.mechanisms.lama import LowRankPooling
from shared_attention.mechanisms.plus_window import PlusWindow
from shared_attention.mechanisms.position import PositionAttention
from shared_attention.mechanisms.swin_window import SwinWindowAttention
from shared_attention.primitives.attend import softmax
from shared_attention.primitives.window_layout import cut_windows


@dataclass(frozen=True)
class OperatorMatrix:
    """What an operator mixes, `weights @ values + rest`, and with which weights."""

    weights: Tensor
    """`[B, H, L, S]`; grids in the order of their positions, B = 1 for graphs."""
    values: Tensor
    """`[B, H, S, D]`."""
    rest: Tensor | None = None
    """`[B, H, L, D]`: what no value of a position or node gives, as the features of edges."""

    @property
    def mixed(self) -> Tensor:
        """`[B, H, L, D]`, which the operator projects and adds to its input."""
        out = self.weights @ self.values
        return out if self.rest is None else out + self.rest


def operator_matrix(module: nn.Module, **inputs: Any) -> OperatorMatrix:
    """Return the weights of an operator of family pooling, spatial or graph, and its values.

    - `lama`: a head per summary; output `mixed[:, :, 0]`.
    - `position`: y = x + γ · mixed; `channel`: channels weigh channels, y = x + γ · mixedᵀ.
    - `swin_window`: zero between windows; output W_o of the heads of `mixed`.
    - `plus_window`: along the row, then along the column, of each head; output as above.
    - `deformable`, `deformable_3d`: queries by positions of the pyramid; output as above.
    - `graph_attention`: nodes by nodes, summed over parallel edges; output the heads of `mixed`.

    Args:
        module: The operator, built.
        **inputs: Arguments of its `forward`.

    Raises:
        UnsupportedError: The operator has no such matrix; the message says why.
    """
    spec = spec_of(module)
    name = type(module).__name__ if spec is None else spec.name
    if name not in _RULES:
        why = _REFUSED.get(name, f"there is no rule for it, only for {', '.join(_RULES)}")
        raise UnsupportedError(f"{name} cannot honour an effective matrix: {why}")
    return _RULES[name](module, inputs)


def _lama(module: nn.Module, inputs: Mapping[str, Any]) -> OperatorMatrix:
    weights = cast(LowRankPooling, module).weights(**inputs)
    x = _valid_only(inputs["x"], inputs.get("mask"))[0]
    return OperatorMatrix(weights[:, :, None], x[:, None].expand(-1, weights.shape[1], -1, -1))


def _position(module: nn.Module, inputs: Mapping[str, Any]) -> OperatorMatrix:
    module = cast(PositionAttention, module)
    module(**inputs)  # refuses what it cannot take
    x, valid = _valid_only(inputs["x"], inputs.get("mask"))
    scores = module.query(x) @ module.key(x).mT
    if valid is not None:
        scores = scores.masked_fill(~valid[:, None], -torch.inf)
    weights = softmax(scores)
    if valid is not None:
        weights = weights * valid[..., None]
    return OperatorMatrix(weights[:, None], module.value(x)[:, None])


def _channel(module: nn.Module, inputs: Mapping[str, Any]) -> OperatorMatrix:
    module = cast(ChannelAttention, module)
    module(**inputs)
    x, _ = _valid_only(inputs["x"], inputs.get("mask"))
    return OperatorMatrix(torch.softmax(-(x.mT @ x), -1)[:, None], x.mT[:, None])


def _swin_window(module: nn.Module, inputs: Mapping[str, Any]) -> OperatorMatrix:
    module = cast(SwinWindowAttention, module)
    x = inputs["x"]
    batch, *grid, width = x.shape
    within = module.output(**inputs).maps.weights()
    windows = cut_windows(grid, module.window, module.shift, x.device)
    count, size = windows.tokens.shape
    positions = x[0, ..., 0].numel()
    place = windows.tokens.masked_fill(windows.tokens < 0, positions)
    weights = within.new_zeros(batch, module.num_heads, positions + 1, positions + 1)
    sorted_by_window = within.unflatten(0, (count, batch)).permute(1, 2, 0, 3, 4)
    rows = place[:, :, None].expand(-1, -1, size)
    weights[:, :, rows, rows.mT] = sorted_by_window
    v = module.qkv(x.reshape(batch, -1, width)).unflatten(-1, (3, module.num_heads, -1))[:, :, 2]
    return OperatorMatrix(weights[..., :-1, :-1].contiguous(), v.transpose(1, 2))


def _plus_window(module: nn.Module, inputs: Mapping[str, Any]) -> OperatorMatrix:
    module = cast(PlusWindow, module)
    x = inputs["x"]
    heads, width = module.num_heads, module.channels // module.num_heads

    def values(made: Tensor, own: Tensor) -> Tensor:
        rest = made[..., : 2 * module.channels]
        own = own.view(*x.shape[1:3], -1).repeat(1, 1, heads).expand(*rest.shape[:-1], -1)
        return torch.cat([rest, own], -1)

    def mixed(out: Tensor) -> Tensor:
        both = out.flatten(1, 2).unflatten(-1, (heads, 2, width))
        return both.permute(0, 2, 3, 1, 4).flatten(1, 2)

    weights = _apply_to_identity(
        module, inputs, module.project_in, module.project_out, values, mixed,
        count=x[0, ..., 0].numel(), width=width,
    )[0]  # fmt: skip
    valid = inputs.get("valid")
    x = x if valid is None else x.masked_fill(~valid[..., None], 0)
    v = module.project_in(x)[..., 2 * module.channels :]
    v = v.flatten(1, 2).unflatten(-1, (heads, width)).transpose(1, 2)
    return OperatorMatrix(weights, v.repeat_interleave(2, 1))


def _deformable(module: Any, inputs: Mapping[str, Any]) -> OperatorMatrix:
    heads, width = module.num_heads, module.channels // module.num_heads
    value, valid = inputs["value"], inputs.get("valid")

    def values(made: Tensor, own: Tensor) -> Tensor:
        return own.repeat(1, heads).expand_as(made)

    def mixed(out: Tensor) -> Tensor:
        return out.unflatten(-1, (heads, width)).transpose(1, 2)

    weights = _apply_to_identity(
        module, inputs, module.value_proj, module.output_proj, values, mixed,
        count=value.shape[1], width=width,
    )[0]  # fmt: skip
    if valid is not None:
        value = value.masked_fill(~valid[..., None], 0)
    return OperatorMatrix(weights, mixed(module.value_proj(value)))


def _graph_attention(module: nn.Module, inputs: Mapping[str, Any]) -> OperatorMatrix:
    module = cast(GraphAttention, module)
    x = inputs["x"]
    heads, width = module.num_heads, module.channels // module.num_heads

    def values(made: Tensor, own: Tensor) -> Tensor:
        return torch.cat([made[:, : 2 * module.channels], own.repeat(1, heads)], -1)

    def mixed(out: Tensor) -> Tensor:
        return out.unflatten(-1, (heads, width)).transpose(0, 1)[None]

    weights, rest = _apply_to_identity(
        module, inputs, module.qkv, None, values, mixed, count=len(x), width=width
    )
    return OperatorMatrix(weights, mixed(module.qkv(x)[:, 2 * module.channels :]), rest)


def _apply_to_identity(
    module: nn.Module,
    inputs: Mapping[str, Any],
    maker: nn.Module,
    reader: nn.Module | None,
    values: Callable[[Tensor, Tensor], Tensor],
    mixed: Callable[[Tensor], Tensor],
    *,
    count: int,
    width: int,
) -> tuple[Tensor, Tensor]:
    """Return the weights and what is left where all values are zero.

    Args:
        module: The operator.
        inputs: Its arguments.
        maker: The part of it that makes the values.
        reader: The part that is given what was mixed; None: it is the operator's output.
        values: What `maker` shall give instead, of what it gave and columns `[S, width]`.
        mixed: What was mixed, by heads, `[B, H, L, width]`.
        count: S.
        width: Columns at once.
    """
    columns, found = torch.zeros(0), torch.zeros(0)

    def replace(part: nn.Module, given: object, made: Tensor) -> Tensor:
        return values(made, columns.to(made))

    def read(part: nn.Module, given: tuple[Tensor, ...]) -> None:
        nonlocal found
        found = given[0]

    def run(own: Tensor) -> Tensor:
        nonlocal columns
        columns = own
        out = module(**inputs)
        return mixed(out if reader is None else found)

    identity = torch.eye(count, -(-count // width) * width)
    with (
        _hooked(maker.register_forward_hook(replace)),
        _hooked(None if reader is None else reader.register_forward_pre_hook(read)),
    ):
        rest = run(torch.zeros(count, width))
        parts = [run(part) - rest for part in identity.split(width, 1)]
    return torch.cat(parts, -1)[..., :count], rest


@contextmanager
def _hooked(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()


def _valid_only(x: Tensor, mask: Mask | None) -> tuple[Tensor, Tensor | None]:
    """Positions in a row, `[B, S, C]`, zero where not valid, and which are."""
    x = x.flatten(1, -2)
    valid = split(mask).keys
    return (x, None) if valid is None else (x.masked_fill(~valid[..., None], 0), valid)


_RULES: dict[str, Callable[[Any, Mapping[str, Any]], OperatorMatrix]] = {
    "lama": _lama,
    "position": _position,
    "channel": _channel,
    "swin_window": _swin_window,
    "plus_window": _plus_window,
    "deformable": _deformable,
    "deformable_3d": _deformable,
    "graph_attention": _graph_attention,
}
_REFUSED = {
    "gn_conv": "each order multiplies the last by gates and adds biases, so it is not linear",
    "hyena": "every channel has a filter and gates of its own, so positions share no weights",
    "hyper_zzw": "every channel has a kernel of its own, so positions share no weights",
    "ninformer": "its gate multiplies the input by a network of it, so it is not linear",
    "ponet": "it takes maxima over segments and neighbours, which are not linear",
    "density_adaptive": "it scales each value by a weight of its own and mixes no positions",
    "histogram": "the order in which it mixes values depends on the values themselves",
    "aggregated": "beside positions it reads pooled cells, which are no positions of its input",
    "cross_contextual": "one token attends, and what it gains is added to every position",
}

"""Attention within shifted windows by any mechanism, whose maps another layer can follow."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor, nn

from shared_attention.choice import AttentionChoice, choose_attention
from shared_attention.errors import UnsupportedError
from shared_attention.layers import MultiHeadAttention
from shared_attention.mechanisms.swin_window import SwinWindowAttention
from shared_attention.registry import catalogue

Combine = Literal["add", "multiply"]


class _Output(Protocol):
    @property
    def out(self) -> Tensor: ...

    @property
    def maps(self) -> Any: ...


class WindowAttention(Protocol):
    """What a Swin block asks of its attention; `SwinWindowAttention` is one."""

    def __call__(self, x: Tensor) -> Tensor:
        """Map `[B, *grid, C]` to the same."""
        ...

    def output(self, x: Tensor, received: Any = None, combine: Combine = "add") -> _Output:
        """As the call, following the maps of another layer too, with the maps of this one."""
        ...


def choose_window_attention(
    model: str, attention: str | None, options: Mapping[str, Any] | None, combine: str
) -> AttentionChoice | None:
    """Return the mechanism within windows; None stands for `swin_window` itself.

    Raises:
        UnsupportedError: The mechanism is unknown, of another family, always causal, or cannot
            combine maps as asked.
        ValueError: Options without a mechanism.
    """
    if attention in (None, "swin_window"):
        if options:
            raise ValueError(
                f"{model}: attention_options got {dict(options)}, but window, heads and shift of "
                "swin_window are options of the model"
            )
        return None
    choice = choose_attention(model, attention, options, default="softmax")
    choice.require_unordered()
    if combine == "multiply":
        raise UnsupportedError(
            f"{model} cannot multiply attention maps of {attention!r}: only those of "
            "'swin_window' are formed; use transfer='add'"
        )
    return choice


def build_window_attention(
    choice: AttentionChoice | None,
    channels: int,
    num_heads: int,
    window: tuple[int, ...],
    shift: tuple[int, ...],
) -> nn.Module:
    """Return a `WindowAttention` with that mechanism."""
    if choice is None:
        return SwinWindowAttention(
            channels, num_heads=num_heads, window=window, shift=shift, dims=len(window)
        )
    return MechanismInWindows(choice, channels, num_heads, window, shift)


@dataclass(frozen=True)
class _Followed:
    """Queries, keys, bias and further inputs of a mechanism in one group of blocks."""

    q: Tensor
    k: Tensor
    bias: Tensor | None
    inputs: Mapping[str, Tensor]


@dataclass(frozen=True)
class MechanismOutput:
    """What `MechanismInWindows.output` gives.

    Args:
        out: `[B, *grid, C]`.
        maps: Of each group of blocks, what attention was computed from.
    """

    out: Tensor
    maps: tuple[_Followed, ...]


class _FollowingAttention(MultiHeadAttention):
    """Multi-head attention that can also mix its values as another layer mixes its own."""

    def follow(
        self, x: Tensor, bias: Tensor | None, received: _Followed | None
    ) -> tuple[Tensor, _Followed]:
        q, k, v = self.project(x, None, 0)
        if q is None:
            raise UnsupportedError(f"{self.spec.name} has no queries, expected family attention")
        own = _Followed(q, k, bias, self._inputs(x))
        mixed = self.mechanism(q, k, v, mask=None, bias=bias, **own.inputs)
        if received is not None:
            mixed = mixed + self.mechanism(
                received.q, received.k, v, mask=None, bias=received.bias, **received.inputs
            )
        return self._join(mixed), own


class MechanismInWindows(nn.Module):
    """Any mechanism of family attention within (shifted) windows of a grid.

    Windows begin at `shift` and end at the grid's border, as those of `SwinWindowAttention` do
    once what wrapped round and padding are hidden; here they are cut to what they hold, so that no
    mask is needed and every mechanism serves. Mechanisms that take a bias with gradients have
    the relative position bias of Swin; the others see no positions within a window.

    Args:
        choice: Mechanism.
        channels: C.
        num_heads: Heads; divides `channels`.
        window: Size along each axis.
        shift: Displacement along each axis.
    """

    positions: _RelativePositions | None

    def __init__(
        self,
        choice: AttentionChoice,
        channels: int,
        num_heads: int,
        window: tuple[int, ...],
        shift: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        layer = choice.build(channels, num_heads, layer=_FollowingAttention)
        self.attention = cast(_FollowingAttention, layer)
        spec = catalogue()[choice.name]
        positioned = spec.supports("bias") and spec.supports("bias_grad")
        self.positions = _RelativePositions(num_heads, window) if positioned else None

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, *grid, C]` to the same."""
        return self.output(x).out

    def output(
        self,
        x: Tensor,
        received: Sequence[_Followed] | None = None,
        combine: Combine = "add",
    ) -> MechanismOutput:
        """Attend within windows, also with the queries and keys received, which are added.

        Args:
            x: `[B, *grid, C]`.
            received: Maps of a layer with the same mechanism, heads, windows and grid.
            combine: "add".

        Raises:
            UnsupportedError: Another `combine`.
        """
        if combine != "add":
            raise UnsupportedError(f"maps of {self.attention.spec.name} cannot be multiplied")
        batch, *grid, width = x.shape
        tokens = x.flatten(1, -2)
        parts, places, maps = [], [], []
        for at, (block, index) in enumerate(_blocks(tuple(grid), self.window, self.shift)):
            rows = index.to(x.device)
            own = tokens[:, rows.flatten()].unflatten(1, rows.shape).flatten(0, 1)
            bias = None if self.positions is None else self.positions(block)[None].to(own.dtype)
            out, followed = self.attention.follow(
                own, bias, None if received is None else received[at]
            )
            parts.append(out.unflatten(0, (batch, -1)).flatten(1, 2))
            places.append(rows.flatten())
            maps.append(followed)
        back = torch.cat(places).argsort()
        out = torch.cat(parts, 1)[:, back].view(batch, *grid, width)
        return MechanismOutput(out, tuple(maps))


class _RelativePositions(nn.Module):
    """Learned bias of each head for each offset within a window."""

    def __init__(self, num_heads: int, window: tuple[int, ...]) -> None:
        super().__init__()
        self.window = window
        count = 1
        for size in window:
            count *= 2 * size - 1
        self.table = nn.Parameter(torch.empty(count, num_heads))
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, block: Sequence[int]) -> Tensor:
        """Return `[H, n, n]` for windows of that size or smaller."""
        index = torch.zeros(1, 1, dtype=torch.int64, device=self.table.device)
        for size, full in zip(block, self.window, strict=True):
            at = torch.arange(size, device=index.device)
            offset = at[:, None] - at[None] + full - 1
            index = index[:, None, :, None] * (2 * full - 1) + offset[None, :, None, :]
            index = index.flatten(2, 3).flatten(0, 1)
        return self.table[index].permute(2, 0, 1)


@functools.lru_cache(maxsize=64)
def _blocks(
    grid: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...]
) -> tuple[tuple[tuple[int, ...], Tensor], ...]:
    """Size of each kind of window with the flat positions `[windows, n]` of those of that size."""
    axes = [_cuts(*axis) for axis in zip(grid, window, shift, strict=True)]
    positions = torch.arange(torch.Size(grid).numel(), device="cpu").view(grid)
    found: dict[tuple[int, ...], list[Tensor]] = {}
    for cut in product(*axes):
        block = positions[tuple(slice(start, stop) for start, stop in cut)]
        found.setdefault(tuple(block.shape), []).append(block.flatten())
    return tuple((size, torch.stack(blocks)) for size, blocks in found.items())


def _cuts(size: int, window: int, shift: int) -> list[tuple[int, int]]:
    starts = [0] if size <= window else sorted({0, *range(shift, size, window)})
    return list(pairwise([*starts, size]))

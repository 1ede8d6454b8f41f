"""Attention within (shifted) windows of a grid, with a relative position bias."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from shared_attention.linear import Linear
from shared_attention.primitives.rows import rearrange_rows
from shared_attention.primitives.window_layer import (
    Weights,
    attend_in_windows,
    serves,
    window_attention,
    window_layer,
)
from shared_attention.primitives.window_layout import Windows, cut_windows
from shared_attention.references.swin_window import reference_swin_window
from shared_attention.spec import Capabilities, MechanismSpec, Option


@dataclass(frozen=True)
class WindowMaps:
    """The attention of a layer within its windows, which a layer with the same windows can follow.

    Args:
        q: Queries `[W, H, n, d]`.
        k: Keys `[W, H, n, d]`.
        biases: G of `[H, n, n]`; -inf hides.
        sizes: Windows under each bias, W together.
    """

    q: Tensor
    k: Tensor
    biases: tuple[Tensor, ...]
    sizes: tuple[int, ...]

    def weights(self) -> Tensor:
        """Return the attention weights `[W, H, n, n]`."""
        scores = self.q @ self.k.mT / math.sqrt(self.q.shape[-1])
        parts = zip(scores.split(list(self.sizes)), self.biases, strict=True)
        return torch.cat([part + bias for part, bias in parts]).softmax(-1)


@dataclass(frozen=True)
class WindowOutput:
    """What `SwinWindowAttention.output` gives.

    Args:
        out: `[B, *grid, C]`.
        maps: Attention of the layer itself, without what it received.
    """

    out: Tensor
    maps: WindowMaps


class SwinWindowAttention(nn.Module):
    """Multi-head self-attention within windows of a grid of one to three dimensions.

    out_i = W_o Σ_{j in the window of i} softmax_j(q_i k_jᵀ / √d + B_{i-j}) v_j, with a learned B
    for each head and offset. With a shift the windows begin `shift` positions later, so that two
    blocks, one shifted, connect neighbouring windows.

    A grid of any size is served: an incomplete window attends to what it holds. The published
    code requires multiples of the window; its descendants let tokens attend to zero padding
    (torchvision, MONAI). They also hide what wrapped round by adding -100 to its scores instead
    of -inf, and, where MONAI shrinks a window to a small grid, read the biases of other offsets.

    Args:
        channels: Width of inputs and outputs.
        num_heads: Heads; must divide `channels`.
        window: Size of the windows, one for all axes or one for each.
        shift: By how many positions windows are displaced, at least 0 and below `window`; half
            of the window in the paper's second block of each pair.
        dims: Number of grid dimensions.
        qkv_bias: Whether the query, key and value projections have biases.

    Raises:
        ValueError: Sizes do not fit together.

    Source: Liu et al., Swin Transformer, ICCV 2021, section 3.2, eq. 4.
    """

    def __init__(
        self,
        channels: int,
        *,
        num_heads: int = 4,
        window: int | Sequence[int] = 7,
        shift: int | Sequence[int] = 0,
        dims: int = 2,
        qkv_bias: bool = True,
    ) -> None:
        super().__init__()
        if channels % num_heads:
            raise ValueError(
                f"swin_window: num_heads {num_heads} does not divide channels {channels}"
            )
        self.channels = channels
        self.num_heads = num_heads
        self.window = _per_axis("window", window, dims)
        self.shift = _per_axis("shift", shift, dims)
        for size, moved in zip(self.window, self.shift, strict=True):
            if size < 1 or not 0 <= moved < size:
                raise ValueError(
                    f"swin_window: got window {size} with shift {moved}, "
                    "expected a window of at least 1 and a shift from 0 to below it"
                )
        self.qkv = Linear(channels, 3 * channels, bias=qkv_bias)
        self.proj = Linear(channels, channels)
        offsets = math.prod(2 * size - 1 for size in self.window)
        self.relative_position_bias_table = nn.Parameter(torch.empty(offsets, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within windows.

        Args:
            x: `[B, *grid, C]`.

        Returns:
            `[B, *grid, C]`.

        Raises:
            ValueError: `x` has another number of dimensions or channels.
        """
        rows, there, back, bias, masks, sizes = self._cut(x)
        if serves(x, self.qkv, self.proj):
            weights = Weights(self.qkv.weight, self.qkv.bias, self.proj.weight, self.proj.bias)
            out = window_layer(rows, there, back, weights, bias, masks, sizes)
            return out.view(x.shape)
        qkv = self._project(rows, there, back)
        mixed = window_attention(qkv, _masked(bias.to(qkv.dtype), masks), sizes)
        return self._join(mixed, there, back).view(x.shape)

    def output(
        self,
        x: Tensor,
        received: WindowMaps | None = None,
        combine: Literal["add", "multiply"] = "add",
    ) -> WindowOutput:
        """Attend within windows, also as another layer does, and return the maps.

        With received maps A', this layer's A and values V, the heads are (A + A') V with
        `combine="add"`; with "multiply" they are (A ∘ A') V, each row of the product scaled to
        sum to one, which is the softmax of the sum of both scores.

        Args:
            x: `[B, *grid, C]`.
            received: Maps of a layer with as many heads and the same windows, shift and input
                grid.
            combine: "add" or "multiply".

        Raises:
            ValueError: Inputs of another shape, maps of other windows, or an unknown `combine`.
        """
        if combine not in ("add", "multiply"):
            raise ValueError(f"swin_window: combine got {combine!r}, expected 'add' or 'multiply'")
        rows, there, back, bias, masks, sizes = self._cut(x)
        qkv = self._project(rows, there, back)
        q, k, v = qkv.transpose(1, 3).unbind(2)
        own = WindowMaps(q, k, tuple(_masked(bias.to(q.dtype), masks)), tuple(sizes))
        if received is not None and received.q.shape[:3] != q.shape[:3]:
            raise ValueError(
                "swin_window: received maps have windows, heads and positions "
                f"{list(received.q.shape[:3])}, expected {list(q.shape[:3])}"
            )
        if received is None or combine == "add":
            mixed = attend_in_windows(q, k, v, own.biases, sizes)
            if received is not None:
                mixed = mixed + attend_in_windows(received.q, received.k, v, received.biases, sizes)
        else:
            mixed = attend_in_windows(
                torch.cat([q, received.q * math.sqrt(q.shape[-1] / received.q.shape[-1])], -1),
                torch.cat([k, received.k], -1),
                v,
                [one + other for one, other in zip(own.biases, received.biases, strict=True)],
                sizes,
                scale=1 / math.sqrt(q.shape[-1]),
            )
        return WindowOutput(self._join(mixed, there, back).view(x.shape), own)

    def _cut(
        self, x: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor | None], list[int]]:
        """Rows `[B * N, C]`, where they go and come from, bias, masks, and windows under each."""
        self._check(x)
        batch, *grid, width = x.shape
        windows = cut_windows(grid, self.window, self.shift, x.device)
        there, back = _rows(windows, batch)
        bias = self.bias(windows.window).to(x.dtype)
        masks = [mask for _, mask in windows.groups]
        sizes = [count * batch for count, _ in windows.groups]
        return x.reshape(-1, width), there, back, bias, masks, sizes

    def _project(self, rows: Tensor, there: Tensor, back: Tensor) -> Tensor:
        """Queries, keys and values `[W, n, 3, H, d]`."""
        qkv = self.qkv(rearrange_rows(rows, there.flatten(), back))
        return qkv.view(*there.shape, 3, self.num_heads, -1)

    def _join(self, mixed: Tensor, there: Tensor, back: Tensor) -> Tensor:
        """Project heads `[W, n, C]` and put the rows back."""
        out = self.proj(mixed)
        return rearrange_rows(out.flatten(0, 1), back, there.flatten())

    def bias(self, window: Sequence[int] | None = None) -> Tensor:
        """Return the relative position bias `[H, n, n]` for windows of that size or smaller."""
        index = torch.zeros(1, 1, dtype=torch.int64, device=self.qkv.weight.device)
        for size, full in zip(window or self.window, self.window, strict=True):
            at = torch.arange(size, device=index.device)
            offset = at[:, None] - at[None] + full - 1
            index = index[:, None, :, None] * (2 * full - 1) + offset[None, :, None, :]
            index = index.flatten(2, 3).flatten(0, 1)
        table = self.relative_position_bias_table
        return table.T.contiguous().index_select(1, index.flatten()).unflatten(1, index.shape)

    def _check(self, x: Tensor) -> None:
        if x.dim() != len(self.window) + 2 or not x.is_floating_point():
            raise ValueError(
                f"swin_window: x is {x.dtype} of shape {list(x.shape)}, "
                f"expected floats [batch, {len(self.window)} grid dimensions, channels]"
            )
        if x.shape[-1] != self.channels or 0 in x.shape:
            raise ValueError(
                f"swin_window: x has shape {list(x.shape)}, "
                f"expected {self.channels} channels and no empty dimension"
            )

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"window={self.window}, shift={self.shift}, num_heads={self.num_heads}"


def _masked(bias: Tensor, masks: Sequence[Tensor | None]) -> list[Tensor]:
    """Biases under each mask."""
    return [bias if mask is None else bias.masked_fill(~mask, -math.inf) for mask in masks]


def _rows(windows: Windows, batch: int) -> tuple[Tensor, Tensor]:
    """Rows of `[B, N]` in windows `[W * B, n]`, and their place there."""
    tokens, places = windows.tokens, windows.places
    count = tokens.shape[1]
    sample = torch.arange(batch, device=tokens.device)[:, None]
    there = tokens[:, None] + sample * len(places)
    there = torch.where(tokens[:, None] < 0, -1, there)
    back = (places // count * batch + sample) * count + places % count
    return there.flatten(0, 1), back.flatten()


def _per_axis(name: str, value: int | Sequence[int], dims: int) -> tuple[int, ...]:
    sizes = (value,) * dims if isinstance(value, int) else tuple(value)
    if dims < 1 or len(sizes) != dims:
        raise ValueError(f"swin_window: {name} got {value!r}, expected {dims} sizes, one per axis")
    return sizes


SPEC = MechanismSpec(
    name="swin_window",
    family="spatial",
    title="Shifted-window attention (Swin)",
    paper="Liu et al., Swin Transformer: Hierarchical Vision Transformer using Shifted Windows, "
    "ICCV 2021 (arXiv:2103.14030)",
    equation="out_i = W_o Σ_{j in window(i)} softmax_j(q_i k_jᵀ / √d + B_{i-j}) v_j",
    complexity="O(N · n · C + N · C²) for N positions in windows of n",
    when_to_use="Images and volumes too large for global attention, in layers with and without "
    "a shift in turn.",
    correctness="Against attention within each block of the grid in float64, and against "
    "torchvision and MONAI with the same weights where the grid is a multiple of the window.",
    capabilities=Capabilities(linear_in_v=False),
    options=(
        Option("num_heads", int, 4, "heads; must divide channels"),
        Option("window", int, 7, "size of the windows along each axis"),
        Option("shift", int, 0, "displacement of the windows along each axis"),
        Option("dims", int, 2, "number of grid dimensions"),
        Option("qkv_bias", bool, True, "whether query, key and value projections have biases"),
    ),
    module=SwinWindowAttention,
    reference=reference_swin_window,
    dims=(2, 1, 3),
    example={"num_heads": 2, "window": 3, "shift": 1},
)

"""Blocks of Swin transformers on grids of two or three dimensions, channels last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from domains.medical.models.parts.swin_attention import Combine, WindowAttention
from shared_attention.linear import Linear
from shared_attention.primitives.window_layer import serves

WIDE_AT_ONCE = 2**18
"""Values of a network's wide layer in memory at a time for each core, without gradients."""

ATTENTION = Callable[[int, int, tuple[int, ...], tuple[int, ...]], nn.Module]
"""Builds window attention from channels, heads, window and shift."""


class SwinBlock(nn.Module):
    """x + attention(norm(x)), then + network(norm(·)), whole branches dropped in training.

    Args:
        attention: a `WindowAttention` of C channels.
        channels: C.
        mlp_ratio: width of the network's hidden layer over C.
        drop_path: probability that a sample skips a branch, in training.
    """

    def __init__(
        self, attention: nn.Module, channels: int, *, mlp_ratio: float, drop_path: float
    ) -> None:
        super().__init__()
        hidden = int(channels * mlp_ratio)
        self.norm1 = nn.LayerNorm(channels)
        self.attn = attention
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(  # numbered as in torchvision, which has a dropout between
            Linear(channels, hidden), nn.GELU(), nn.Identity(), Linear(hidden, channels)
        )
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, *grid, C]` to the same."""
        return self._finish(x, self.attn(self.norm1(x)))

    def output(
        self, x: Tensor, received: Any = None, combine: Combine = "add"
    ) -> tuple[Tensor, Any]:
        """As the call, following the attention maps received too; also returns the block's own."""
        attended = cast(WindowAttention, self.attn).output(self.norm1(x), received, combine)
        return self._finish(x, attended.out), attended.maps

    def _finish(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self._drop(attended)
        if (
            not torch.is_grad_enabled()
            and not self.training
            and serves(x, self.mlp[0], self.mlp[3])
        ):
            return self._network_by_rows(x)
        return x + self._drop(self.mlp(self.norm2(x)))

    def _network_by_rows(self, x: Tensor) -> Tensor:
        """Add network(norm(x)) to x, few positions at a time: the wide layer stays in cache."""
        widen, narrow = cast(Linear, self.mlp[0]), cast(Linear, self.mlp[3])
        rows = x.reshape(-1, x.shape[-1])
        out = torch.empty_like(rows)
        step = max(1, WIDE_AT_ONCE // widen.out_features) * torch.get_num_threads()
        for start in range(0, len(rows), step):
            own, into = rows[start : start + step], out[start : start + step]
            wide = torch.addmm(widen.bias, self.norm2(own), widen.weight.T)
            torch.ops.aten.gelu_(wide)
            torch.addmm(narrow.bias, wide, narrow.weight.T, out=into).add_(own)
        return out.view(x.shape)

    def _drop(self, branch: Tensor) -> Tensor:
        """Leave the branch out for some samples, in training; the others make up for it."""
        if not self.training or not self.drop_path:
            return branch
        kept = branch.new_ones(len(branch), *[1] * (branch.dim() - 1))
        return branch * functional.dropout(kept, self.drop_path)


def swin_stage(
    attention: ATTENTION,
    channels: int,
    num_heads: int,
    window: tuple[int, ...],
    *,
    mlp_ratio: float,
    drop_paths: Sequence[float],
) -> nn.ModuleList:
    """Return blocks in turn without and with a shift of half a window, one for each rate."""
    none, half = tuple(0 for _ in window), tuple(size // 2 for size in window)
    return nn.ModuleList(
        SwinBlock(
            attention(channels, num_heads, window, half if at % 2 else none),
            channels,
            mlp_ratio=mlp_ratio,
            drop_path=rate,
        )
        for at, rate in enumerate(drop_paths)
    )


def rising(highest: float, depths: Sequence[int]) -> list[list[float]]:
    """Return rates from 0 in the first block to `highest` in the last, by stages."""
    last = max(1, sum(depths) - 1)
    starts = accumulate(depths, initial=0)
    return [
        [highest * (start + at) / last for at in range(depth)]
        for start, depth in zip(starts, depths, strict=False)
    ]


class PatchEmbedding(nn.Module):
    """Cut `[B, C, *grid]` into patches, each one token: `[B, *grid / patch, channels]`."""

    def __init__(self, image_channels: int, channels: int, patch: int, spatial_dims: int) -> None:
        super().__init__()
        layer = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
        self.proj = layer(image_channels, channels, patch, patch)
        self.norm: nn.Module = nn.LayerNorm(channels)

    def forward(self, image: Tensor) -> Tensor:
        """Embed; the grid is a multiple of the patch."""
        return self.norm(self.proj(image).movedim(1, -1))


class PatchMerging(nn.Module):
    """Join 2 neighbours along each axis: `[B, *grid, C]` to `[B, *ceil(grid / 2), 2 C]`.

    Neighbours stand with the first axis running fastest, as in the published 2-D code and in
    torchvision; an odd grid gets a last row of zeros.
    """

    def __init__(self, channels: int, spatial_dims: int) -> None:
        super().__init__()
        joined = 2**spatial_dims * channels
        self.norm = nn.LayerNorm(joined)
        self.reduction = Linear(joined, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Halve the grid."""
        odd = [size % 2 for size in x.shape[1:-1]]
        if any(odd):
            x = functional.pad(x, (0, 0, *(n for each in reversed(odd) for n in (0, each))))
        dims = x.dim() - 2
        for axis in range(dims):
            x = x.unflatten(1 + 2 * axis, (-1, 2))
        halves = [1 + 2 * axis for axis in range(dims)]
        x = x.permute(0, *halves, *(at + 1 for at in reversed(halves)), -1)
        return self.reduction(self.norm(x.flatten(1 + dims)))


class PatchExpansion(nn.Module):
    """Each token becomes `factor` tokens along each axis: `[B, *grid, C]` to `[.., out]`."""

    def __init__(self, channels: int, out: int, factor: int, spatial_dims: int) -> None:
        super().__init__()
        self.factor = factor
        self.expand = Linear(channels, factor**spatial_dims * out, bias=False)
        self.norm = nn.LayerNorm(out)

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge the grid."""
        dims = x.dim() - 2
        x = self.expand(x).unflatten(-1, (*[self.factor] * dims, -1))
        order = [n for axis in range(dims) for n in (1 + axis, 1 + dims + axis)]
        x = x.permute(0, *order, -1)
        for axis in range(dims):
            x = x.flatten(1 + axis, 2 + axis)
        return self.norm(x)

"""Blocks of Swin transformers on grids of two or three dimensions, channels last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, cast

from torch import Tensor, nn
from torch.nn import functional

from domains.medical.models.parts.swin_attention import Combine, WindowAttention
from shared_attention.linear import Linear

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
        from torchvision.ops import StochasticDepth

        hidden = int(channels * mlp_ratio)
        self.norm1 = nn.LayerNorm(channels)
        self.attn = attention
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(  # numbered as in torchvision, which has a dropout between
            Linear(channels, hidden), nn.GELU(), nn.Identity(), Linear(hidden, channels)
        )
        self.drop_path = StochasticDepth(drop_path, "row") if drop_path else nn.Identity()

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
        x = x + self.drop_path(attended)
        return x + self.drop_path(self.mlp(self.norm2(x)))


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

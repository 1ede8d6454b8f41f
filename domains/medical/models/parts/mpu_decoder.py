"""A decoder layer of MPU-Net: cross-attention to the skip, and several scales."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from domains.medical.models.parts.convolutions import (
    SLOPE,
    ConvolutionBlock,
    InstanceNorm,
    convolution,
)
from domains.medical.models.parts.position_module import block_mean, heads_of, to_grid, to_tokens
from domains.medical.models.parts.positions import GridPositions
from shared_attention.choice import AttentionChoice

KEYS = 512
"""Keys that a query of the decoder attends to, at most."""


class CrossAttention(nn.Module):
    """Tokens of a map attend to another map of the same image, pooled to a bounded grid.

    x + attention(norm(x) + positions, norm(pooled skip) + positions), with at most `KEYS` keys.

    Args:
        spatial_dims: 2 or 3.
        channels: of both maps.
        choice: mechanism.
    """

    def __init__(self, spatial_dims: int, channels: int, choice: AttentionChoice) -> None:
        super().__init__()
        self.most = int(KEYS ** (1 / spatial_dims) + 1e-6)
        self.norm_query, self.norm_key = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.places = GridPositions(spatial_dims, channels)
        self.attention = choice.build(channels, heads_of(channels), across=True)
        self.mask = choice.padding(None)

    def forward(
        self, x: Tensor, skip: Tensor, stride: Sequence[int], skip_stride: Sequence[int]
    ) -> Tensor:
        """Return `x` `[B, C, *grid]` with what it finds in `skip` `[B, C, *finer grid]`.

        Args:
            x: queries.
            skip: keys and values.
            stride: voxels of the image between positions of `x`.
            skip_stride: the same of `skip`.
        """
        factor = [-(-size // self.most) for size in skip.shape[2:]]
        pooled = block_mean(skip, factor)
        steps = [s * f for s, f in zip(skip_stride, factor, strict=True)]
        query = self.norm_query(to_tokens(x)) + self.places(x.shape[2:], stride)
        key = self.norm_key(to_tokens(pooled)) + self.places(pooled.shape[2:], steps)
        return x + to_grid(self.attention(query, key, mask=self.mask), x)


class MultiScale(nn.Module):
    """Add what convolutions find at the grid itself, at half and at a quarter of it.

    Coarser scales are reached by strides, so they cost an eighth and less in 3-D.

    Args:
        spatial_dims: 2 or 3.
        channels: C.
    """

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            convolution(spatial_dims, channels, channels, stride=stride) for stride in (1, 2, 2)
        )
        self.norms = nn.ModuleList(InstanceNorm(channels) for _ in self.convolutions)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, C, *grid]` to the same shape."""
        full, half, quarter = self.convolutions
        fine = self.norms[0](full(x))
        middle = self.norms[1](half(x))
        coarse = self.norms[2](quarter(F.leaky_relu(middle, SLOPE)))
        middle = middle + F.interpolate(coarse, size=middle.shape[2:])
        return F.leaky_relu_(x + fine + F.interpolate(middle, size=x.shape[2:]), SLOPE)


class DecoderLayer(nn.Module):
    """Narrow the coarse map, query the skip, enlarge, join and read at several scales.

    Attention runs before the map is enlarged, so a decoder layer of N voxels has N / 8 queries in
    3-D and at most `KEYS` keys; voxels of the skip reach the layer at full resolution through the
    concatenation.

    Args:
        spatial_dims: 2 or 3.
        coarse: channels of the coarser map.
        channels: of the skip and of the result.
        choice: mechanism of the cross-attention.
    """

    def __init__(
        self, spatial_dims: int, coarse: int, channels: int, choice: AttentionChoice
    ) -> None:
        super().__init__()
        self.narrow = convolution(spatial_dims, coarse, channels, 1, bias=True)
        self.cross = CrossAttention(spatial_dims, channels, choice)
        self.join = ConvolutionBlock(spatial_dims, 2 * channels, channels)
        self.scales = MultiScale(spatial_dims, channels)

    def forward(
        self, x: Tensor, skip: Tensor, stride: Sequence[int], skip_stride: Sequence[int]
    ) -> Tensor:
        """Return `[B, channels, *grid of skip]`; see `CrossAttention` for the arguments."""
        x = self.cross(self.narrow(x), skip, stride, skip_stride)
        x = F.interpolate(x, size=skip.shape[2:])
        return self.scales(self.join(torch.cat([x, skip], 1)))

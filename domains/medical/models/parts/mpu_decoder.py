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

KEYS = 256
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
        self, x: Tensor, skip: Tensor, step: Sequence[int], skip_step: Sequence[int]
    ) -> Tensor:
        """Return `x` `[B, C, *grid]` with what it finds in `skip` `[B, C, *finer grid]`.

        Args:
            x: queries.
            skip: keys and values.
            step: voxels of the image between positions of `x`.
            skip_step: the same of `skip`.
        """
        factor = [-(-size // self.most) for size in skip.shape[2:]]
        pooled = block_mean(skip, factor)
        blocks = [s * f for s, f in zip(skip_step, factor, strict=True)]
        query = self.norm_query(to_tokens(x)) + self.places(x.shape[2:], step)
        key = self.norm_key(to_tokens(pooled)) + self.places(pooled.shape[2:], blocks)
        return x + to_grid(self.attention(query, key, mask=self.mask), x)


class MultiScale(nn.Module):
    """Add what convolutions find on a grid and on half of it.

    Args:
        spatial_dims: 2 or 3.
        channels: C.
    """

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.fine = convolution(spatial_dims, channels, channels)
        self.coarse = convolution(spatial_dims, channels, channels, stride=2)
        self.norm_fine, self.norm_coarse = InstanceNorm(channels), InstanceNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, C, *grid]` to the same shape."""
        coarse = F.interpolate(self.norm_coarse(self.coarse(x)), size=x.shape[2:])
        return F.leaky_relu_(x + self.norm_fine(self.fine(x)) + coarse, SLOPE)


class Join(nn.Module):
    """Enlarge a map and join it with the skip by one convolution.

    Args:
        spatial_dims: 2 or 3.
        channels: of the map, the skip and the result.
        stride: of the map to the skip, along each axis.
    """

    def __init__(self, spatial_dims: int, channels: int, stride: tuple[int, ...]) -> None:
        super().__init__()
        transposed = nn.ConvTranspose2d if spatial_dims == 2 else nn.ConvTranspose3d
        self.enlarge = transposed(channels, channels, stride, stride)  # type: ignore[arg-type]
        self.block = ConvolutionBlock(spatial_dims, 2 * channels, channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Return `[B, channels, *grid of skip]`."""
        return self.block(torch.cat([self.enlarge(x), skip], 1))


class PlainLayer(nn.Module):
    """Enlarge the coarse map and join it with the skip.

    Args:
        spatial_dims: 2 or 3.
        coarse: channels of the coarser map.
        channels: of the skip and of the result.
        stride: of the coarser map to the skip, along each axis.
    """

    def __init__(
        self, spatial_dims: int, coarse: int, channels: int, stride: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.narrow = convolution(spatial_dims, coarse, channels, 1, bias=True)
        self.join = Join(spatial_dims, channels, stride)

    def forward(
        self, x: Tensor, skip: Tensor, step: Sequence[int], skip_step: Sequence[int]
    ) -> Tensor:
        """Return `[B, channels, *grid of skip]`; takes what `DecoderLayer` takes."""
        return self.join(self.narrow(x), skip)


class DecoderLayer(nn.Module):
    """Query the skip from the coarse map, read that at several scales, enlarge and join.

    With one convolution at the layer's own grid after the join, three scales meet in a layer: 1,
    2 and 4 of its voxels. Everything but the join runs before the map is enlarged, where it costs
    an eighth in 3-D: a layer of N voxels has N / 8 queries and at most `KEYS` keys.

    Args:
        spatial_dims: 2 or 3.
        coarse: channels of the coarser map.
        channels: of the skip and of the result.
        stride: of the coarser map to the skip, along each axis.
        choice: mechanism of the cross-attention.
    """

    def __init__(
        self,
        spatial_dims: int,
        coarse: int,
        channels: int,
        stride: tuple[int, ...],
        choice: AttentionChoice,
    ) -> None:
        super().__init__()
        self.narrow = convolution(spatial_dims, coarse, channels, 1, bias=True)
        self.cross = CrossAttention(spatial_dims, channels, choice)
        self.scales = MultiScale(spatial_dims, channels)
        self.join = Join(spatial_dims, channels, stride)

    def forward(
        self, x: Tensor, skip: Tensor, step: Sequence[int], skip_step: Sequence[int]
    ) -> Tensor:
        """Return `[B, channels, *grid of skip]`; see `CrossAttention` for the arguments."""
        return self.join(self.scales(self.cross(self.narrow(x), skip, step, skip_step)), skip)

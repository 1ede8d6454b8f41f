"""Backbones: maps of an image at four scales, each half the grid of the one before."""

from __future__ import annotations

from torch import Tensor, nn

from domains.medical.models.parts.convolutions import (
    ConvolutionBlock,
    ResidualBlock,
    convolution,
)
from domains.medical.models.parts.weights import load_weights

LEVELS = 4


class ResidualBackbone(nn.Module):
    """A small residual encoder for two or three dimensions, instance norm.

    Args:
        spatial_dims: 2 or 3.
        channels: of the image.
        width: channels of the first level; each further one has twice as many.
        stride: voxels of the image per position of the first level: 1, 2 or 4.
        blocks: residual blocks of a level.
    """

    def __init__(
        self, spatial_dims: int, channels: int, *, width: int, stride: int, blocks: int = 2
    ) -> None:
        super().__init__()
        halvings = stride.bit_length() - 1
        steps = [2] * halvings or [1]
        entries = [channels, *[width] * len(steps)]
        self.stem = nn.Sequential(
            *(
                ConvolutionBlock(spatial_dims, before, width, step)
                for before, step in zip(entries, steps, strict=False)
            )
        )
        self.widths = tuple(width * 2**level for level in range(LEVELS))
        levels = []
        for level, size in enumerate(self.widths):
            first = ResidualBlock(spatial_dims, max(width, size // 2), size, 2 if level else 1)
            rest = [ResidualBlock(spatial_dims, size, size) for _ in range(blocks - 1)]
            levels.append(nn.Sequential(first, *rest))
        self.levels = nn.ModuleList(levels)
        self.stride = stride

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the maps of `image` `[B, C, *grid]`, finest first."""
        x, maps = self.stem(image), []
        for level in self.levels:
            x = level(x)
            maps.append(x)
        return maps


class ResNeXtBackbone(nn.Module):
    """The four levels of torchvision's ResNeXt-101 32x8d (Xie et al., CVPR 2017), 2-D.

    A stem for other than three channels replaces the first convolution; with a weights file, it
    gets the file's filters averaged over colours and scaled to the number of channels. Batch norm,
    as its weights need. Published code overwrote the whole backbone with random numbers.

    Args:
        channels: of the image.
        weights: file of a torchvision `resnext101_32x8d`, or None for random weights.

    Raises:
        DataError: The weights file cannot be read or does not fit.
    """

    stride = 4
    widths = (256, 512, 1024, 2048)

    def __init__(self, channels: int, weights: str | None = None) -> None:
        super().__init__()
        from torchvision.models import resnext101_32x8d

        net = resnext101_32x8d(weights=None)
        del net.fc
        if weights is not None:
            load_weights(net, weights)
        if channels != 3:
            colours = net.conv1.weight.detach()
            net.conv1 = convolution(2, channels, colours.shape[0], kernel=7, stride=2)
            mean = colours.mean(1, keepdim=True) * (3 / channels)
            net.conv1.load_state_dict({"weight": mean.expand_as(net.conv1.weight).clone()})
        self.stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        self.levels = nn.ModuleList([net.layer1, net.layer2, net.layer3, net.layer4])

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the maps of `image` `[B, C, H, W]`, finest first."""
        x, maps = self.stem(image), []
        for level in self.levels:
            x = level(x)
            maps.append(x)
        return maps

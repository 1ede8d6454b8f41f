"""The attention mechanism of T-TAME: from feature grids to one map for each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from domains.medical.tame.features import Layer


class ExplanationMaps(nn.Module):
    """Maps in (0, 1) for every class from the features of some layers of a frozen model.

    Each layer's features go through a 1-wide convolution and a normalisation, are added to
    themselves, rectified and brought to the finest layer's grid; a 1-wide convolution over all of
    them gives K maps, and a sigmoid keeps them between 0 and 1.

    Features are normalised for each image (group normalisation with one group), where the
    published code has batch statistics: batches of patches are small. Each layer's features are
    first divided by their own mean absolute value, since layers of segmentation networks differ in
    scale by orders of magnitude.

    Args:
        layers: whose features are read.
        classes: K.

    Source: Ntrougkas, Gkalelis and Mezaris, T-TAME, IEEE Access 2024, arXiv 2403.04523.
    """

    def __init__(self, layers: Sequence[Layer], classes: int) -> None:
        super().__init__()
        self.layers = tuple(layers)
        conv = (nn.Conv2d, nn.Conv3d)[len(layers[0].grid) - 2]
        self.convolutions = nn.ModuleList(conv(e.channels, e.channels, 1) for e in layers)
        self.norms = nn.ModuleList(nn.GroupNorm(1, each.channels) for each in layers)
        self.fuse = conv(sum(each.channels for each in layers), classes, 1)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Return maps `[B, K, *grid]` at the grid of the first layer.

        Args:
            features: `[B, C, *grid]` of each layer by name, as `tapped` records them.
        """
        finest = features[self.layers[0].name].shape[2:]
        parts = []
        for layer, convolution, norm in zip(
            self.layers, self.convolutions, self.norms, strict=True
        ):
            grid = features[layer.name].float()
            scale = grid.flatten(1).abs().mean(1).clamp_min(1e-6)
            grid = grid / scale.view(-1, *(1,) * (grid.dim() - 1))
            parts.append(enlarged((grid + norm(convolution(grid))).relu(), finest))
        return self.fuse(torch.cat(parts, dim=1)).sigmoid()


def enlarged(grid: Tensor, size: Sequence[int]) -> Tensor:
    """Return `[B, C, *grid]` interpolated linearly to `[B, C, *size]`."""
    if tuple(grid.shape[2:]) == tuple(size):
        return grid
    mode = "bilinear" if len(size) == 2 else "trilinear"
    return functional.interpolate(grid, tuple(size), mode=mode, align_corners=False)


def masked(image: Tensor, mask: Tensor) -> Tensor:
    """Return `[B, C, *grid]` faded by masks `[B, *grid]` to the darkest value of each channel.

    The published code multiplies images between 0 and 1, so that what is masked is black.
    """
    darkest = image.flatten(2).amin(2).view(*image.shape[:2], *(1,) * (image.dim() - 2))
    return darkest + mask[:, None] * (image - darkest)

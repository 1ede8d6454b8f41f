"""Multi-scale self-guided attention (Sinha and Dolz, IEEE JBHI 2020, arXiv 1906.02849)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from domains.medical.models.output import SegmentationOutput
from domains.medical.models.parts.backbones import LEVELS, ResidualBackbone, ResNeXtBackbone
from domains.medical.models.parts.convolutions import convolution, cover, fast_layout
from domains.medical.models.parts.guided_attention import (
    Guided,
    GuidedStep,
    semantic_losses,
    sharpened,
)
from domains.medical.models.parts.padding import pad_to
from domains.medical.models.parts.position_module import PositionModule
from shared_runtime.errors import UsageError

WIDE = 128
"""Shortest edge of a patch from which on the first level has a quarter of its grid."""


class MSGuidedNet(nn.Module):
    """Attend at four scales, guided by what all scales share, twice.

    A backbone gives four levels; each is narrowed to `width` channels and enlarged to the grid of
    the first. The four together are fused into one map. In the first step each level attends under
    the fused map, in the second under the fused map weighted by the first step's result; see
    `GuidedStep`. Every level predicts before and after: 8 supervised heads. The prediction is the
    mean of the four refined ones.

    Differs from published code: works in 3-D, on any grid and on CPU; instance norm instead of
    batch norm outside ResNeXt, and no biases before it; no dropout, which published code makes and
    never applies; γ of both attentions starts at 0.1 instead of 0; the backbone keeps the weights
    it is given. Position attention is exact up to 4096 positions (64 x 64, the published size);
    larger grids are averaged over blocks for it, see `PositionModule`. The training loss sees the
    mean prediction too.

    Args:
        channels: of the image.
        classes: K, background included.
        spatial_dims: 2 or 3.
        patch_size: voxels along each axis in training; decides the stride of the first level of
            the residual backbone: 4 as published where every edge has 128 or more, else 2.
        attention: mechanism over positions; None is `position`.
        attention_options: its options.
        backbone: `residual`, small, or `resnext101` as published, 2-D only.
        weights: file of weights of ResNeXt-101 32x8d, or None.
        width: channels of each level; None is 64 in 2-D, as published, and 16 in 3-D.
        backbone_width: channels of the first level of the residual backbone.
        semantic_width: channels of the first level of the semantic modules, in which most of the
            work is; None is four times `width` in 2-D, as published, and the width twice in 3-D.

    Raises:
        UsageError: ResNeXt in 3-D, or weights for the residual backbone.
        DataError: The weights file cannot be read or does not fit.
        UnsupportedError: The mechanism is unknown or always causal.
    """

    def __init__(
        self,
        *,
        channels: int,
        classes: int,
        spatial_dims: int,
        patch_size: tuple[int, ...],
        attention: str | None = None,
        attention_options: Mapping[str, Any] | None = None,
        backbone: Literal["residual", "resnext101"] = "residual",
        weights: str | None = None,
        width: int | None = None,
        backbone_width: int = 16,
        semantic_width: int | None = None,
    ) -> None:
        super().__init__()
        if backbone == "resnext101" and spatial_dims != 2:
            raise UsageError("MSGuidedNet: backbone resnext101 is 2-D; use backbone=residual")
        if weights is not None and backbone != "resnext101":
            raise UsageError("MSGuidedNet: weights are for backbone=resnext101; leave them out")
        size = width or (64 if spatial_dims == 2 else 16)
        inner = semantic_width or size * (4 if spatial_dims == 2 else 2)
        stride = 4 if min(patch_size) >= WIDE else 2
        self.backbone = (
            ResNeXtBackbone(channels, weights)
            if backbone == "resnext101"
            else ResidualBackbone(spatial_dims, channels, width=backbone_width, stride=stride)
        )
        self.narrow = nn.ModuleList(
            sharpened(spatial_dims, wide, size, 1) for wide in self.backbone.widths
        )
        self.fuse = nn.Sequential(
            sharpened(spatial_dims, LEVELS * size, size),
            sharpened(spatial_dims, size, size),
            sharpened(spatial_dims, size, size, 1),
        )
        steps = []
        for _ in range(2):
            steps.append(
                GuidedStep(
                    spatial_dims,
                    size,
                    LEVELS,
                    inner,
                    lambda c: PositionModule(
                        "MSGuidedNet", c, attention=attention, options=attention_options
                    ),
                )
            )
        self.steps = nn.ModuleList(steps)
        self.heads = nn.ModuleList(
            convolution(spatial_dims, size, classes, 1, bias=True) for _ in range(2 * LEVELS)
        )

    def forward(self, image: Tensor) -> Tensor:
        """Return logits `[B, K, *grid]` of `image` `[B, C, *grid]`, any grid."""
        padded, crop = pad_to(image, 4 * self.backbone.stride)
        _, steps = self._attend(padded)
        refined = self._predict(steps[1].maps, LEVELS)
        return crop(_enlarge(torch.stack(refined).mean(0), padded))

    def outputs(self, image: Tensor) -> SegmentationOutput:
        """Return the logits with the 8 heads, weight 1 each, and the losses of the guidance.

        In 3-D the four heads before attention stay on the grid of the first level.
        """
        padded, crop = pad_to(image, 4 * self.backbone.stride)
        levels, steps = self._attend(padded)
        all_heads = self._predict(levels, 0) + self._predict(steps[1].maps, LEVELS)
        coarse = all_heads[:LEVELS] if image.dim() == 5 else []
        enlarged = _enlarge(torch.cat(all_heads[len(coarse) :], 1), padded)
        large = crop(enlarged).chunk(2 * LEVELS - len(coarse), 1)
        step = [self.backbone.stride] * 3
        small = [cover(head, image.shape[2:], step) for head in coarse]
        logits = torch.stack(large[-LEVELS:]).mean(0)
        heads = tuple((head, 1.0) for head in [*small, *large])
        return SegmentationOutput(logits, heads, semantic_losses(steps))

    def _attend(self, image: Tensor) -> tuple[list[Tensor], list[Guided]]:
        """Return the levels and both steps."""
        maps = self.backbone(fast_layout(image))
        grid = maps[0].shape[2:]
        levels = [_resize(narrow(x), grid) for narrow, x in zip(self.narrow, maps, strict=True)]
        fused = self.fuse(torch.cat(levels[::-1], 1))
        first = self.steps[0](levels, [fused] * LEVELS)
        second = self.steps[1](levels, [x * fused for x in first.maps])
        return levels, [first, second]

    def _predict(self, maps: list[Tensor], first: int) -> list[Tensor]:
        return [self.heads[first + i](x) for i, x in enumerate(maps)]


def _resize(x: Tensor, grid: torch.Size) -> Tensor:
    if x.shape[2:] == grid:
        return x
    return F.interpolate(x, size=grid, mode="bilinear" if x.dim() == 4 else "trilinear")


def _enlarge(x: Tensor, like: Tensor) -> Tensor:
    return _resize(x, like.shape[2:])

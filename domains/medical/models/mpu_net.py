"""MPU-Net: multi-scale position attention U-Net (Yu, Han and Song 2023, arXiv 2307.05799)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from domains.medical.models.output import SegmentationOutput
from domains.medical.models.parts.convolutions import (
    ResidualBlock,
    convolution,
    cover,
    fast_layout,
    grid_steps,
)
from domains.medical.models.parts.mpu_decoder import DecoderLayer, PlainLayer
from domains.medical.models.parts.padding import pad_to
from domains.medical.models.parts.position_module import PositionModule
from domains.medical.models.parts.positions import GridPositions
from shared_attention.choice import choose_attention


class MPUNet(nn.Module):
    """U-Net with position attention on the serialised map at the bottleneck.

    An encoder of residual blocks halves the grid at each stage. The deepest map is serialised into
    tokens, slice after slice, with the position of each, and every token attends to every other
    (`position` of the catalogue). Every decoder layer lets its map query the encoder's
    (cross-attention) and reads the result at several scales; see `DecoderLayer`. The finest layer
    is plain here: on hippocampus volumes both cost a sixth of a step there, and the same time
    gave 0.003 more Dice on held-out training cases when it was spent on more steps.

    The paper has no published code, and its text gives no sizes. Its own are: widths, depth from
    the patch as in nnU-Net, residual blocks with instance norm, γ = 0.1 at the start instead of 0,
    keys pooled to at most 6 (2-D: 16) along each axis in the decoder, which bounds its cost.

    Args:
        channels: of the image.
        classes: K, background included.
        spatial_dims: 2 or 3.
        patch_size: voxels along each axis in training; decides the depth.
        attention: mechanism of the bottleneck; None is `position`.
        attention_options: its options.
        cross_attention: mechanism of the decoder, which attends across.
        width: channels of the first stage; each stage doubles them, up to `widest`.
        widest: channels of a stage at most.
        depth: stages at most; fewer where the patch cannot be halved further.
        blocks: residual blocks of each stage of the encoder.
        plain_layers: finest layers of the decoder without cross-attention and scales; 0 is the
            paper's.

    Raises:
        UnsupportedError: A mechanism is unknown, always causal or cannot attend across.
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
        cross_attention: str = "softmax",
        width: int = 16,
        widest: int = 320,
        depth: int = 6,
        blocks: int = 1,
        plain_layers: int = 1,
    ) -> None:
        super().__init__()
        across = choose_attention(
            "MPUNet", cross_attention, None, default="softmax", needs=("cross",)
        )
        across.require_unordered()
        flat = (1,) * spatial_dims
        strides, self.steps = grid_steps(patch_size, most=depth - 1)
        widths = [min(width * 2**stage, widest) for stage in range(len(self.steps))]
        entries = [channels, *widths[:-1]]
        self.encoder = nn.ModuleList(
            _stage(spatial_dims, before, after, stride, blocks)
            for before, after, stride in zip(entries, widths, [flat, *strides], strict=True)
        )
        self.places = GridPositions(spatial_dims, widths[-1])
        self.bottleneck = PositionModule(
            "MPUNet", widths[-1], attention=attention, options=attention_options
        )
        self.decoder = nn.ModuleList(
            PlainLayer(spatial_dims, widths[i + 1], widths[i], strides[i])
            if i < plain_layers
            else DecoderLayer(spatial_dims, widths[i + 1], widths[i], strides[i], across)
            for i in reversed(range(len(widths) - 1))
        )
        self.heads = nn.ModuleList(
            convolution(spatial_dims, size, classes, 1, bias=True)
            for size in reversed(widths[: max(1, len(widths) - 1)])
        )

    def forward(self, image: Tensor) -> Tensor:
        """Return logits `[B, K, *grid]` of `image` `[B, C, *grid]`, any grid."""
        padded, crop = pad_to(image, self.steps[-1])
        return crop(self.heads[-1](self._maps(padded)[-1]))

    def outputs(self, image: Tensor) -> SegmentationOutput:
        """Return the logits with those of the coarser decoder layers, each half the weight."""
        padded, crop = pad_to(image, self.steps[-1])
        logits = [head(x) for head, x in zip(self.heads, self._maps(padded), strict=True)]
        grid = image.shape[2:]
        heads = [
            (cover(each, grid, self.steps[level]), 0.5**level)
            for level, each in enumerate(reversed(logits[:-1]), start=1)
        ]
        return SegmentationOutput(crop(logits[-1]), tuple(heads))

    def _places(self, grid: Sequence[int], blocks: int) -> Tensor:
        """Return the positions of bottleneck tokens that are `blocks` of its positions wide."""
        return self.places(grid, [step * blocks for step in self.steps[-1]])

    def _maps(self, image: Tensor) -> list[Tensor]:
        """Return the map of each decoder layer, coarsest first."""
        x, skips = fast_layout(image), []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        x = self.bottleneck(x, self._places)
        maps: list[Tensor] = []
        for level in reversed(range(len(skips) - 1)):
            layer = self.decoder[len(maps)]
            x = layer(x, skips[level], self.steps[level + 1], self.steps[level])
            maps.append(x)
        return maps or [x]


def _stage(
    spatial_dims: int, inputs: int, outputs: int, stride: Sequence[int], blocks: int
) -> nn.Sequential:
    first = ResidualBlock(spatial_dims, inputs, outputs, stride)
    rest = [ResidualBlock(spatial_dims, outputs, outputs) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)

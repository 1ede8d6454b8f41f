"""Guided attention: position and channel attention that a semantic module steers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from domains.medical.models.parts.convolutions import InstanceNorm, convolution
from domains.medical.models.parts.position_module import GAMMA, to_grid, to_tokens
from shared_attention.registry import catalogue


def sharpened(spatial_dims: int, inputs: int, outputs: int, kernel: int = 3) -> nn.Sequential:
    """Return a convolution with norm and a rectifier whose slope is learned."""
    return nn.Sequential(
        convolution(spatial_dims, inputs, outputs, kernel),
        InstanceNorm(outputs),
        nn.PReLU(),
    )


class ChannelModule(nn.Module):
    """The catalogue's channel attention on maps with channels first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attention = catalogue()["channel"].build(channels=channels)
        nn.init.constant_(self.attention.get_parameter("gamma"), GAMMA)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, C, *grid]` to the same shape."""
        return to_grid(self.attention(to_tokens(x)), x)


class SemanticModule(nn.Module):
    """A small encoder and decoder through which guidance is passed, C → W → 2W → W → C.

    Each half has two convolutions with norm and rectifier; the encoder then takes maxima over
    pairs, the decoder enlarges by transposed convolutions.

    Args:
        spatial_dims: 2 or 3.
        channels: C.
        width: W; published code has 2C.
    """

    def __init__(self, spatial_dims: int, channels: int, width: int) -> None:
        super().__init__()
        up = nn.ConvTranspose2d if spatial_dims == 2 else nn.ConvTranspose3d
        pool = nn.MaxPool2d if spatial_dims == 2 else nn.MaxPool3d

        def pair(inputs: int, outputs: int) -> list[nn.Module]:
            return [
                layer
                for before in (inputs, outputs)
                for layer in (
                    convolution(spatial_dims, before, outputs),
                    InstanceNorm(outputs),
                    nn.ReLU(inplace=True),
                )
            ]

        self.encoder = nn.Sequential(
            *pair(channels, width), pool(2), *pair(width, 2 * width), pool(2)
        )
        self.decoder = nn.Sequential(
            *pair(2 * width, width),
            up(width, width, 2, 2),
            *pair(width, channels),
            up(channels, channels, 2, 2),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the bottleneck `[B, 2W, *grid / 4]` and the map `[B, C, *grid]` of `x`."""
        bottleneck = self.encoder(x)
        return bottleneck, self.decoder(bottleneck)


@dataclass(frozen=True)
class Guided:
    """What one step of guided attention gives; tensors of all levels are stacked by batch.

    Args:
        maps: one `[B, C, *grid]` for each level.
        bottleneck: of the semantic module, for its loss.
        entered: what the semantic module got.
        left: what it gave back.
    """

    maps: list[Tensor]
    bottleneck: Tensor
    entered: Tensor
    left: Tensor


class GuidedStep(nn.Module):
    """Attend within each level by position and by channel, weighted by the semantic module.

    With x the level beside its guide: out((position(x) + channel(x)) · gate(semantic(x))), the
    semantic module shared by all levels and everything else of each level's own.

    Args:
        spatial_dims: 2 or 3.
        channels: C of a level.
        levels: how many.
        semantic_width: W of the semantic module.
        position: makes position attention on maps of C channels.
    """

    def __init__(
        self,
        spatial_dims: int,
        channels: int,
        levels: int,
        semantic_width: int,
        position: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()

        def branch(attention: nn.Module) -> nn.Module:
            return nn.Sequential(
                sharpened(spatial_dims, 2 * channels, channels),
                attention,
                sharpened(spatial_dims, channels, channels),
            )

        def each(make: Callable[[], nn.Module]) -> nn.ModuleList:
            return nn.ModuleList(make() for _ in range(levels))

        self.semantic = SemanticModule(spatial_dims, 2 * channels, semantic_width)
        self.position = each(lambda: branch(position(channels)))
        self.channel = each(lambda: branch(ChannelModule(channels)))
        self.gate = each(lambda: convolution(spatial_dims, 2 * channels, channels, bias=True))
        self.out = each(lambda: convolution(spatial_dims, channels, channels, 1, bias=True))

    def forward(self, levels: Sequence[Tensor], guides: Sequence[Tensor]) -> Guided:
        """Return every level `[B, C, *grid]`, attended under its guide of the same shape."""
        joined = [torch.cat(pair, 1) for pair in zip(levels, guides, strict=True)]
        entered = torch.cat(joined)
        bottleneck, left = self.semantic(entered)
        maps = []
        for i, (x, semantic) in enumerate(zip(joined, left.chunk(len(joined)), strict=True)):
            attended = self.position[i](x) + self.channel[i](x)
            maps.append(self.out[i](attended * self.gate[i](semantic)))
        return Guided(maps, bottleneck, entered, left)


def semantic_losses(steps: Sequence[Guided]) -> dict[str, Tensor]:
    """Return the losses between the semantic modules of two steps, weighted as published.

    `guidance`: 0.25 Σ over levels of the mean squared difference of the bottlenecks.
    `reconstruction`: 0.1 Σ over levels and steps of that of what entered a module and left it.
    """
    first, second = steps
    levels = len(first.maps)
    guidance = F.mse_loss(first.bottleneck.float(), second.bottleneck.float())
    kept = [F.mse_loss(step.left.float(), step.entered.float()) for step in steps]
    return {
        "guidance": 0.25 * levels * guidance,
        "reconstruction": 0.1 * levels * torch.stack(kept).sum(),
    }

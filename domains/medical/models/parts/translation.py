"""Translation of one modality into another, judged by a patch discriminator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from domains.medical.models.parts.convolutions import ConvolutionBlock as Block
from domains.medical.models.parts.convolutions import convolution


class Encoder(nn.Module):
    """Blocks on ever coarser grids: `[B, C, *grid]` to one map per stage.

    The first stage, whose grid is the largest, has one block, each other a pair.

    Args:
        spatial_dims: 2 or 3.
        inputs: channels of the image.
        widths: channels of each stage.
        strides: of each stage after the first.
    """

    def __init__(
        self,
        spatial_dims: int,
        inputs: int,
        widths: Sequence[int],
        strides: Sequence[Sequence[int]],
    ) -> None:
        super().__init__()
        steps: list[int | Sequence[int]] = [1, *strides]
        self.stages = nn.ModuleList(
            nn.Sequential(Block(spatial_dims, before, width, step))
            for before, width, step in zip([inputs, *widths], widths, steps, strict=False)
        )
        for stage, width in zip(list(self.stages)[1:], widths[1:], strict=True):
            cast(nn.Sequential, stage).append(Block(spatial_dims, width, width))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the maps from the finest to the coarsest."""
        maps = []
        for stage in self.stages:
            image = stage(image)
            maps.append(image)
        return maps


class Decoder(nn.Module):
    """From the coarsest map of an `Encoder` back to the finest; skips are added."""

    def __init__(
        self, spatial_dims: int, widths: Sequence[int], strides: Sequence[Sequence[int]]
    ) -> None:
        super().__init__()
        up = nn.ConvTranspose2d if spatial_dims == 2 else nn.ConvTranspose3d
        self.up = nn.ModuleList(
            up(coarse, fine, tuple(step), tuple(step))  # type: ignore[arg-type]
            for fine, coarse, step in zip(widths, widths[1:], strides, strict=False)
        )
        self.blocks = nn.ModuleList(Block(spatial_dims, width, width) for width in widths[:-1])

    def forward(self, coarsest: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """Return features on the finest grid; of `maps` the last is not read."""
        x = coarsest
        for at in reversed(range(len(self.up))):
            x = self.blocks[at](self.up[at](x) + maps[at])
        return x


class GuidedTranslator(nn.Module):
    """Decode features of one modality into an image of the other, and guide to tumours by them.

    Features that can tell the other modality are what both have in common. A map learned from
    the tumour masks, g in (0, 1), stresses them: features (1 + g).

    Args:
        spatial_dims: 2 or 3.
        widths: channels of the encoder's stages.
        strides: of each stage after the first.
    """

    def __init__(
        self, spatial_dims: int, widths: Sequence[int], strides: Sequence[Sequence[int]]
    ) -> None:
        super().__init__()
        self.decoder = Decoder(spatial_dims, widths, strides)
        self.image = convolution(spatial_dims, widths[0], 1, 1, bias=True)
        self.guide = convolution(spatial_dims, widths[0], 1, 1, bias=True)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return guided features, the translated image and logits of the guide, finest grid."""
        features = self.decoder(maps[-1], maps)
        guide = self.guide(features)
        return features * (1 + guide.sigmoid()), self.image(features), guide


class PatchDiscriminator(nn.Sequential):
    """Score overlapping patches of an image as real or not: `[B, 1, *grid]` to a coarser map."""

    def __init__(self, spatial_dims: int, width: int) -> None:
        super().__init__(
            convolution(spatial_dims, 1, width, stride=2, bias=True),
            nn.LeakyReLU(0.2),
            Block(spatial_dims, width, 2 * width, 2),
            convolution(spatial_dims, 2 * width, 1, bias=True),
        )


def adversarial_losses(
    discriminator: nn.Module, real: Tensor, fake: Tensor, rows: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the least-squares losses of the discriminator and of the translator.

    Both may be added and minimised by one optimiser: the first sees the fake image detached, so
    it teaches the discriminator only; the second goes through a copy of the discriminator without
    gradients, so it teaches the translator only (Mao et al., Least Squares GAN, ICCV 2017).

    Args:
        discriminator: scores images.
        real: `[B, 1, *grid]`.
        fake: translated images of that shape.
        rows: bool `[B]`, samples that count; all where None.
    """
    on_real, on_fake = discriminator(real), discriminator(fake.detach())
    frozen = {name: value.detach() for name, value in discriminator.named_parameters()}
    judged = torch.func.functional_call(discriminator, frozen, (fake,))
    of_discriminator = ((on_real - 1).square() + on_fake.square()).flatten(1).mean(1) / 2
    of_translator = (judged - 1).square().flatten(1).mean(1)
    if rows is None:
        return of_discriminator.mean(), of_translator.mean()
    return (of_discriminator * rows).mean(), (of_translator * rows).mean()


def guide_loss(guide: Tensor, label: Tensor, rows: Tensor | None = None) -> Tensor:
    """Return the cross-entropy of guide logits `[B, 1, *grid]` with what is foreground.

    Foreground, which is rare, has half of the weight wherever there is any.

    Args:
        guide: logits.
        label: `[B, *grid]` int64.
        rows: bool `[B]`, samples that count; all where None.
    """
    truth = (label[:, None] > 0).to(guide.dtype)
    loss = functional.binary_cross_entropy_with_logits(guide, truth, reduction="none")
    counted = torch.ones_like(truth)
    if rows is not None:
        counted = counted * rows.view(-1, *(1,) * (truth.dim() - 1)).to(truth)
    inside, outside = counted * truth, counted * (1 - truth)
    shares = [(loss * part).sum() / part.sum().clamp(min=1) for part in (inside, outside)]
    return (shares[0] + shares[1]) / 2

"""MEFN: evidential fusion of PET and CT (Qi et al. 2024, arXiv 2406.18327)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from domains.medical.models.output import SegmentationOutput
from domains.medical.models.parts.convolutions import SLOPE, convolution, grid_steps
from domains.medical.models.parts.evidence import (
    combine,
    dice_loss,
    evidential_cross_entropy,
    log_parameters,
    misleading_evidence,
    vacuity,
)
from domains.medical.models.parts.mutual_attention import CalibratedMutualAttention
from domains.medical.models.parts.padding import pad_to
from domains.medical.models.parts.translation import (
    Decoder,
    Encoder,
    GuidedTranslator,
    PatchDiscriminator,
    adversarial_losses,
    guide_loss,
)
from shared_attention.choice import choose_attention


@dataclass(frozen=True, kw_only=True)
class EvidentialOutput(SegmentationOutput):
    """What the loss of `MEFN` looks at; pairs are of the two modalities in the channels' order.

    Args:
        image: `[B, 2, *grid]`.
        evidence: of each modality, `[B, K, *grid]`.
        fused: evidence of both, `[B, K, *grid]`.
        coarse: evidence of each modality on the coarsest grid.
        translated: image of the other modality made from each, `[B, 1, *grid]`.
        guides: logits of foreground from each, `[B, 1, *grid]`.
    """

    image: Tensor
    evidence: tuple[Tensor, ...]
    fused: Tensor
    coarse: tuple[Tensor, ...]
    translated: tuple[Tensor, ...]
    guides: tuple[Tensor, ...]


class MEFN(nn.Module):
    """Segment from two modalities that say how much they know.

    Cross-modal feature learning: an encoder for each modality, whose features a decoder
    translates into the other modality (L1 and adversarial loss). The translating features join
    the segmentation, stressed where they point to tumour. Multi-modal trusted fusion: on the
    coarsest grid each modality attends to the other as far as that is certain; each then gives
    Dirichlet evidence for every class and voxel, and Dempster's rule combines the two opinions.
    Logits are the logs of the combined Dirichlet parameters, so their softmax is its mean.

    The published repository has no code, and details of the layers are not public. Chosen here:
    encoders of plain blocks whose norm keeps the strength of features comparable (`Block`), added
    skips, no norm before the evidence, one mutual attention on the coarsest grid,
    least-squares patch discriminators, paired translation without a cycle, guides and coarse
    opinions learned from the masks, and, as uncertainty perceptual loss, cross-entropy weighted by
    the vacuity of the fused opinion, which is no target of its gradient. Dice is asked of the fused
    opinion only, as it pays for belief in foreground where a modality knows nothing. One optimiser
    trains all: see `adversarial_losses`.

    Args:
        channels: must be 2.
        classes: K.
        spatial_dims: 2 or 3.
        patch_size: of training; decides how often each axis is halved.
        attention: mechanism between the modalities; None is `softmax`. Not an always causal one.
        attention_options: its options.
        width: channels of the finest stage; doubled at each next, up to 16 times.
        stages: coarser stages at most.
        num_heads: of the attention.
        translation: weight of the L1 loss of translated images.
        adversarial: weight of the adversarial losses.
        guidance: weight of the guides' loss.
        perceptual: weight of the uncertainty perceptual loss.
        misleading: weight that the loss of evidence for wrong classes reaches.
        annealing_steps: training steps until it does, linearly; the count is saved with the
            weights, so that a resumed run goes on from it.

    Raises:
        ValueError: Not two channels, or sizes that do not fit.
        UnsupportedError: The mechanism is unknown, always causal, or cannot attend across.
    """

    steps: Tensor

    def __init__(
        self,
        *,
        channels: int,
        classes: int,
        spatial_dims: int,
        patch_size: tuple[int, ...],
        attention: str | None = None,
        attention_options: Mapping[str, Any] | None = None,
        width: int = 16,
        stages: int = 4,
        num_heads: int = 4,
        translation: float = 0.5,
        adversarial: float = 0.05,
        guidance: float = 0.2,
        perceptual: float = 0.5,
        misleading: float = 0.2,
        annealing_steps: int = 1000,
    ) -> None:
        super().__init__()
        if channels != 2:
            raise ValueError(
                f"MEFN: fuses two modalities (PET and CT), one channel each, got {channels} "
                f"channel{'' if channels == 1 else 's'}"
            )
        if spatial_dims not in (2, 3) or len(patch_size) != spatial_dims:
            raise ValueError(
                f"MEFN: patch_size got {tuple(patch_size)} for spatial_dims {spatial_dims}, "
                "expected two or three sizes"
            )
        if annealing_steps < 1 or stages < 1 or width < 1:
            raise ValueError(
                f"MEFN: width {width}, stages {stages}, annealing_steps {annealing_steps}, "
                "expected at least 1"
            )
        strides, steps = grid_steps(patch_size, most=stages, least_stages=1)
        widths = [width * 2 ** min(at, 4) for at in range(len(strides) + 1)]
        choice = choose_attention(
            "MEFN", attention, attention_options, default="softmax", needs=("cross",)
        )
        choice.require_unordered()
        self.classes, self.spatial_dims = classes, spatial_dims
        self.multiple = steps[-1]
        self.weights = {
            "translation": translation,
            "adversarial": adversarial,
            "guidance": guidance,
            "perceptual": perceptual,
            "misleading": misleading,
        }
        self.annealing_steps = annealing_steps
        dims, pair = spatial_dims, range(2)
        self.encoders = nn.ModuleList(Encoder(dims, 1, widths, strides) for _ in pair)
        self.translators = nn.ModuleList(GuidedTranslator(dims, widths, strides) for _ in pair)
        self.mutual = CalibratedMutualAttention(choice, widths[-1], num_heads, classes, dims)
        self.decoders = nn.ModuleList(Decoder(dims, widths, strides) for _ in pair)
        self.joins = nn.ModuleList(
            nn.Sequential(convolution(dims, 2 * width, width, bias=True), nn.LeakyReLU(SLOPE))
            for _ in pair
        )
        self.heads = nn.ModuleList(convolution(dims, width, classes, 1, bias=True) for _ in pair)
        self.discriminators = nn.ModuleList(PatchDiscriminator(dims, width) for _ in pair)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, image: Tensor) -> Tensor:
        """Return logits `[B, K, *grid]` of images `[B, 2, *grid]` of any grid.

        Raises:
            ValueError: The image has other dimensions or channels.
        """
        return self.outputs(image).logits

    def outputs(self, image: Tensor) -> EvidentialOutput:
        """Return the logits and what they were made from.

        Raises:
            ValueError: The image has other dimensions or channels.
        """
        if image.dim() != self.spatial_dims + 2 or image.shape[1] != 2:
            raise ValueError(
                f"MEFN: image has shape {list(image.shape)}, expected "
                f"[batch, 2 channels, {self.spatial_dims} grid dimensions]"
            )
        padded, crop = pad_to(image, self.multiple)
        maps = [
            encoder(x) for encoder, x in zip(self.encoders, padded.split(1, dim=1), strict=True)
        ]
        guided = [translator(m) for translator, m in zip(self.translators, maps, strict=True)]
        calibrated, coarse = self.mutual(maps[0][-1], maps[1][-1])
        evidence = []
        for at in range(2):
            x = self.decoders[at](calibrated[at], maps[at])
            x = self.joins[at](torch.cat([x, guided[at][0]], 1))
            evidence.append(functional.softplus(crop(self.heads[at](x)).float()))
        fused = combine(*evidence)
        return EvidentialOutput(
            logits=log_parameters(fused),
            image=image,
            evidence=tuple(evidence),
            fused=fused,
            coarse=tuple(coarse),
            translated=tuple(crop(translated) for _, translated, _ in guided),
            guides=tuple(crop(guide) for _, _, guide in guided),
        )

    def uncertainty(self, image: Tensor) -> Tensor:
        """Return the vacuity of the fused opinion `[B, 1, *grid]`, in (0, 1]."""
        return vacuity(self.outputs(image).fused)

    def modality_uncertainty(self, image: Tensor) -> Tensor:
        """Return the vacuity of each modality's own opinion `[B, 2, *grid]`, in (0, 1]."""
        return torch.cat([vacuity(each) for each in self.outputs(image).evidence], 1)

    def loss_terms(self, output: EvidentialOutput, label: Tensor) -> Mapping[str, Tensor]:
        """Return the terms of the loss, weights applied; in training the step is counted.

        In evaluation the misleading evidence has its full weight and images are not judged, so
        that values of different epochs compare.

        Args:
            output: of `outputs`.
            label: `[B, *grid]` int64.
        """
        if self.training:
            self.steps += 1
        share = (self.steps / self.annealing_steps).clamp(max=1) if self.training else 1.0
        small, _ = pad_to(label[:, None].float(), self.multiple)
        small = functional.interpolate(small, output.coarse[0].shape[2:], mode="nearest-exact")
        coarse_label = small[:, 0].long()
        opinions = [(each, label) for each in (output.fused, *output.evidence)]
        opinions += [(each, coarse_label) for each in output.coarse]
        surprise = [evidential_cross_entropy(*opinion) for opinion in opinions]
        wrong = [misleading_evidence(*opinion).mean() for opinion in opinions]
        doubt = vacuity(output.fused.detach())[:, 0]
        terms = {
            "cross_entropy": torch.stack([each.mean() for each in surprise]).sum(),
            "dice": dice_loss(output.logits.softmax(1), label),
            "misleading": self.weights["misleading"] * share * torch.stack(wrong).sum(),
            "perceptual": self.weights["perceptual"] * (surprise[0] * doubt).sum() / doubt.sum(),
        }
        guides = [guide_loss(each.float(), label) for each in output.guides]
        terms["guidance"] = self.weights["guidance"] * torch.stack(guides).sum()
        others = output.image.split(1, dim=1)[::-1]
        pairs = list(zip(others, output.translated, strict=True))
        misses = [(fake - real).abs().mean() for real, fake in pairs]
        terms["translation"] = self.weights["translation"] * torch.stack(misses).sum()
        if self.training:
            judged = []
            for judge, (real, fake) in zip(self.discriminators, pairs, strict=True):
                of_judge, of_translator = adversarial_losses(judge, real, fake)
                judged.append(self.weights["adversarial"] * of_translator + of_judge)
            terms["adversarial"] = torch.stack(judged).sum()
        return terms

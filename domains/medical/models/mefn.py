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
    conflict,
    dice_loss,
    evidence_from,
    evidential_cross_entropy,
    knowledge,
    log_parameters,
    misleading_evidence,
    vacuity,
)
from domains.medical.models.parts.mutual_attention import (
    CalibratedExchange,
    CalibratedMutualAttention,
)
from domains.medical.models.parts.padding import pad_to
from domains.medical.models.parts.spoiling import spoil
from domains.medical.models.parts.translation import (
    Decoder,
    Encoder,
    GuidedTranslator,
    PatchDiscriminator,
    adversarial_losses,
    guide_loss,
)
from shared_attention.choice import choose_attention

_OWN, _EARLY = 0.5, 0.1
"""Weights of the losses of a modality's opinion and of each early one, beside 1 of the fused: with
1 for all of them cross-entropy, which background decides, outweighs Dice, and training is slow."""


@dataclass(frozen=True, kw_only=True)
class EvidentialOutput(SegmentationOutput):
    """What the loss of `MEFN` looks at; pairs are of the two modalities in the channels' order.

    Args:
        image: `[B, 2, *grid]`, as it was given.
        kept: bool `[B, 2]`, false for a modality that was spoilt before the model saw it.
        evidence: of each modality, `[B, K, *grid]`.
        fused: evidence of both, `[B, K, *grid]`.
        early: evidence of each modality from its encoder's stages, a pair for each grid.
        translated: image of the other modality made from each, `[B, 1, *grid]`.
        guides: logits of foreground from each, `[B, 1, *grid]`.
    """

    image: Tensor
    kept: Tensor
    evidence: tuple[Tensor, ...]
    fused: Tensor
    early: tuple[tuple[Tensor, Tensor], ...]
    translated: tuple[Tensor, ...]
    guides: tuple[Tensor, ...]


class MEFN(nn.Module):
    """Segment from two modalities that say how much they know.

    Cross-modal feature learning: an encoder for each modality, whose features a decoder
    translates into the other modality (L1 and adversarial loss). The translating features join
    the segmentation, stressed where they point to tumour. Multi-modal trusted fusion: each
    modality reads the other as far as that is certain, by attention on the coarsest grid and place
    by place on the finer ones but the finest; each then gives Dirichlet evidence for every class
    and voxel, and Dempster's rule combines the two opinions. Logits are the logs of the combined
    Dirichlet parameters, so their softmax is its mean.

    The published repository has no code, and details of the layers are not public. Chosen here:
    encoders of plain blocks with instance norm, added skips, no norm before the evidence,
    exponential evidence, one mutual attention on the coarsest grid, least-squares patch
    discriminators, paired translation without a cycle, guides and early opinions learned from the
    masks, and, as uncertainty perceptual loss, cross-entropy weighted by the vacuity of the fused
    opinion, which is no target of its gradient. Dice is asked of the fused opinion only, as it
    pays for belief in foreground where a modality knows nothing. One optimiser trains all: see
    `adversarial_losses`.

    Not in the paper: with `spoilt`, a modality of some training samples is replaced (`spoil`), and
    its own opinions are to be vacuous there, which is neutral in Dempster's rule. Otherwise a
    modality that shows nothing is rightly sure of background, the commonest class, and no
    uncertainty would tell that it is worthless.

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
        spoilt: share of training samples of which one modality is spoilt; 0.3 makes uncertainty an
            alarm for a worthless modality, at a cost in Dice where training is short.
        ignorance: weight of the loss of any evidence from a spoilt modality.

    Raises:
        ValueError: Not two channels, or sizes that do not fit.
        UnsupportedError: The mechanism is unknown, always causal, or cannot attend across.
    """

    steps: Tensor
    map_names = ("uncertainty", "uncertainty_1", "uncertainty_2", "conflict")
    """What `with_maps` gives: vacuity of the fused opinion and of each modality's own, in the order
    of the channels, and how far the two contradict each other."""

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
        annealing_steps: int = 200,
        spoilt: float = 0.0,
        ignorance: float = 1.0,
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
            "ignorance": ignorance,
        }
        self.annealing_steps, self.spoilt = annealing_steps, spoilt
        dims, pair = spatial_dims, range(2)
        self.encoders = nn.ModuleList(Encoder(dims, 1, widths, strides) for _ in pair)
        self.translators = nn.ModuleList(GuidedTranslator(dims, widths, strides) for _ in pair)
        self.mutual = CalibratedMutualAttention(choice, widths[-1], num_heads, classes, dims)
        self.exchanges = nn.ModuleList(CalibratedExchange(w, classes, dims) for w in widths[1:-1])
        self.decoders = nn.ModuleList(Decoder(dims, widths, strides) for _ in pair)
        self.joins = nn.ModuleList(
            nn.Sequential(convolution(dims, 2 * width, width, 1, bias=True), nn.LeakyReLU(SLOPE))
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
        given, kept = spoil(image, self.spoilt) if self.training else (image, _all_kept(image))
        padded, crop = pad_to(given, self.multiple)
        maps = [
            encoder(x) for encoder, x in zip(self.encoders, padded.split(1, dim=1), strict=True)
        ]
        guided = [translator(m) for translator, m in zip(self.translators, maps, strict=True)]
        read = [
            exchange(one, other)
            for exchange, one, other in zip(
                (*self.exchanges, self.mutual), maps[0][1:], maps[1][1:], strict=True
            )
        ]
        evidence = []
        for at in range(2):
            calibrated = [maps[at][0], *(pair[at] for pair, _ in read)]
            x = self.decoders[at](calibrated[-1], calibrated)
            x = self.joins[at](torch.cat([x, guided[at][0]], 1))
            evidence.append(evidence_from(crop(self.heads[at](x))))
        fused = combine(*evidence)
        return EvidentialOutput(
            logits=log_parameters(fused),
            image=image,
            kept=kept,
            evidence=tuple(evidence),
            fused=fused,
            early=tuple((one, other) for _, (one, other) in read),
            translated=tuple(crop(translated) for _, translated, _ in guided),
            guides=tuple(crop(guide) for _, _, guide in guided),
        )

    def uncertainty(self, image: Tensor) -> Tensor:
        """Return the vacuity of the fused opinion `[B, 1, *grid]`, in (0, 1]."""
        return vacuity(self.outputs(image).fused)

    def modality_uncertainty(self, image: Tensor) -> Tensor:
        """Return the vacuity of each modality's own opinion `[B, 2, *grid]`, in (0, 1]."""
        return torch.cat([vacuity(each) for each in self.outputs(image).evidence], 1)

    def with_maps(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits `[B, K, *grid]` and the maps that `map_names` names, each in [0, 1]."""
        output = self.outputs(image)
        each = [vacuity(evidence) for evidence in output.evidence]
        maps = [vacuity(output.fused), *each, conflict(*output.evidence)]
        return output.logits, torch.cat(maps, 1)

    def loss_terms(self, output: EvidentialOutput, label: Tensor) -> Mapping[str, Tensor]:
        """Return the terms of the loss, weights applied; in training the step is counted.

        In evaluation the misleading evidence has its full weight and images are not judged, so
        that values of different epochs compare. What a spoilt modality says of masks, and what is
        translated to or from it, is not judged.

        Args:
            output: of `outputs`.
            label: `[B, *grid]` int64.
        """
        if self.training:
            self.steps += 1
        share = (self.steps / self.annealing_steps).clamp(max=1) if self.training else 1.0
        doubt = vacuity(output.fused.detach())[:, 0]
        fused = evidential_cross_entropy(output.fused, label)
        wrong = misleading_evidence(output.fused, label).mean()
        terms = {
            "cross_entropy": fused.mean(),
            "dice": dice_loss(output.logits.softmax(1), label),
            "perceptual": self.weights["perceptual"] * (fused * doubt).sum() / doubt.sum(),
        }
        unknown = torch.zeros_like(wrong)
        weighted = [(_OWN, output.evidence), *((_EARLY, pair) for pair in output.early)]
        for weight, pair in weighted:
            truth = self._label_of(label, pair[0])
            for evidence, kept in zip(pair, output.kept.T, strict=True):
                surprise = evidential_cross_entropy(evidence, truth)
                terms["cross_entropy"] = terms["cross_entropy"] + weight * _mean(surprise, kept)
                wrong = wrong + weight * _mean(misleading_evidence(evidence, truth), kept)
                if not kept.all():
                    unknown = unknown + weight * _mean(knowledge(evidence), ~kept)
        terms["misleading"] = self.weights["misleading"] * share * wrong
        terms["ignorance"] = self.weights["ignorance"] * unknown
        guides = zip(output.guides, output.kept.T, strict=True)
        losses = [guide_loss(guide.float(), label, kept) for guide, kept in guides]
        terms["guidance"] = self.weights["guidance"] * torch.stack(losses).sum()
        return {**terms, **self._translation_terms(output)}

    def _translation_terms(self, output: EvidentialOutput) -> dict[str, Tensor]:
        whole = output.kept.all(1)
        others = output.image.split(1, dim=1)[::-1]
        pairs = list(zip(others, output.translated, strict=True))
        misses = [_mean((fake - real).abs(), whole) for real, fake in pairs]
        terms = {"translation": self.weights["translation"] * torch.stack(misses).sum()}
        if self.training:
            judged = []
            for judge, (real, fake) in zip(self.discriminators, pairs, strict=True):
                of_judge, of_translator = adversarial_losses(judge, real, fake, whole)
                judged.append(self.weights["adversarial"] * of_translator + of_judge)
            terms["adversarial"] = torch.stack(judged).sum()
        return terms

    def _label_of(self, label: Tensor, evidence: Tensor) -> Tensor:
        """Return the nearest label of each position of evidence, on the padded grid or coarser."""
        grid = evidence.shape[2:]
        if grid == label.shape[1:]:
            return label
        padded, _ = pad_to(label[:, None].float(), self.multiple)
        return functional.interpolate(padded, grid, mode="nearest-exact")[:, 0].long()


def _all_kept(image: Tensor) -> Tensor:
    return torch.ones(image.shape[:2], dtype=torch.bool, device=image.device)


def _mean(values: Tensor, rows: Tensor) -> Tensor:
    """Return the mean over the positions of all samples, those outside of `rows` counted as 0."""
    return (values.flatten(1).mean(1) * rows).mean()

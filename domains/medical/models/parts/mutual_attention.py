"""Two modalities read each other, each as far as the other can be trusted."""

from __future__ import annotations

from torch import Tensor, nn

from domains.medical.models.parts.convolutions import convolution
from domains.medical.models.parts.evidence import evidence_from, vacuity
from shared_attention.choice import AttentionChoice


class CalibratedMutualAttention(nn.Module):
    """x + (1 - u_y) attention(x, y) for both of two maps x and y of one grid.

    An evidential classifier on each map gives its vacuity u at every position: what an uncertain
    modality says is taken over by the other in proportion to its certainty. The classifiers'
    evidence is returned for the loss, without which u means nothing.

    Args:
        choice: mechanism, which must attend across.
        channels: C.
        num_heads: heads; divides `channels`.
        classes: K.
        spatial_dims: 2 or 3.
    """

    def __init__(
        self,
        choice: AttentionChoice,
        channels: int,
        num_heads: int,
        classes: int,
        spatial_dims: int,
    ) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
        self.attention = nn.ModuleList(
            choice.build(channels, num_heads, across=True) for _ in range(2)
        )
        self.evidence = nn.ModuleList(
            convolution(spatial_dims, channels, classes, 1, bias=True) for _ in range(2)
        )

    def forward(self, one: Tensor, other: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return both maps `[B, C, *grid]` calibrated, and the evidence `[B, K, *grid]` of each.

        Args:
            one: `[B, C, *grid]`.
            other: `[B, C, *grid]`.
        """
        maps = (one, other)
        evidence = [evidence_from(layer(x)) for layer, x in zip(self.evidence, maps, strict=True)]
        tokens = [
            norm(x.flatten(2).transpose(1, 2)) for norm, x in zip(self.norms, maps, strict=True)
        ]
        calibrated = []
        for at, x in enumerate(maps):
            seen = self.attention[at](tokens[at], tokens[1 - at])
            trust = 1 - vacuity(evidence[1 - at])
            calibrated.append(x + trust.to(x.dtype) * seen.transpose(1, 2).view_as(x))
        return calibrated, evidence


class CalibratedExchange(nn.Module):
    """x + (1 - u_y) W y for both of two maps x and y of one grid, W mixing channels.

    What `CalibratedMutualAttention` does, for grids on which attention costs too much.

    Args:
        channels: C.
        classes: K.
        spatial_dims: 2 or 3.
    """

    def __init__(self, channels: int, classes: int, spatial_dims: int) -> None:
        super().__init__()
        self.mix = nn.ModuleList(convolution(spatial_dims, channels, channels, 1) for _ in range(2))
        self.evidence = nn.ModuleList(
            convolution(spatial_dims, channels, classes, 1, bias=True) for _ in range(2)
        )

    def forward(self, one: Tensor, other: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return both maps `[B, C, *grid]` calibrated, and the evidence `[B, K, *grid]` of each.

        Args:
            one: `[B, C, *grid]`.
            other: `[B, C, *grid]`.
        """
        maps = (one, other)
        evidence = [evidence_from(layer(x)) for layer, x in zip(self.evidence, maps, strict=True)]
        calibrated = []
        for at, x in enumerate(maps):
            trust = 1 - vacuity(evidence[1 - at])
            calibrated.append(x + trust.to(x.dtype) * self.mix[at](maps[1 - at]))
        return calibrated, evidence

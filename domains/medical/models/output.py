"""What a model gives in training, beside the logits that it predicts with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class SegmentationOutput:
    """Everything the training loss looks at.

    Args:
        logits: `[B, K, *grid]` what `forward` returns.
        heads: further logits `[B, K, *any grid]` with the weight of each one's loss.
        auxiliary: further scalar terms of the loss, with their weights applied.
    """

    logits: Tensor
    heads: tuple[tuple[Tensor, float], ...] = ()
    auxiliary: Mapping[str, Tensor] = field(default_factory=dict)

"""How unsure a prediction is, from its probabilities: 0 to 1 for each voxel.

`entropy` of the averaged probabilities is the whole of it. What of it comes from members (models,
flips, windows) that contradict each other is the mutual information between class and member,
H(mean p) - mean H(p) (Houlsby et al. 2011; Depeweg et al. 2018), here `disagreement`: it is 0 where
every member is equally unsure in the same way, as at a blurred border, and high where each is sure
of something else.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import Protocol

import torch
from torch import Tensor, nn


class Evidential(Protocol):
    """A model that says itself how unsure it is.

    `map_names` names what `with_maps` gives beside the logits, "uncertainty" first.
    """

    map_names: tuple[str, ...]

    def with_maps(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits `[B, K, *grid]` and maps `[B, M, *grid]` in 0 to 1 of one pass."""
        ...


def entropy(probabilities: Tensor, dim: int = 0) -> Tensor:
    """Return the entropy over classes as a share of its maximum, log K.

    Args:
        probabilities: K of them along `dim`, which add up to 1.
        dim: the axis of the classes; it is kept with length 1.
    """
    nats = torch.special.entr(probabilities).sum(dim, keepdim=True)
    return (nats / log(probabilities.shape[dim])).clamp(0, 1)


def disagreement(whole: Tensor, within: Tensor) -> Tensor:
    """Return the mutual information between class and member as a share of log K.

    Args:
        whole: `entropy` of the averaged probabilities.
        within: average of each member's `entropy`, of the same shape.
    """
    return (whole - within).clamp_min(0)


def has_evidence(models: Sequence[nn.Module]) -> bool:
    """Whether every model is `Evidential`, all with the same maps."""
    names = {getattr(model, "map_names", None) for model in models}
    return len(names) == 1 and None not in names

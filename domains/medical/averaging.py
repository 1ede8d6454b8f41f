"""Class probabilities of one window, averaged over models and flips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import combinations
from typing import cast

import torch
from torch import Tensor, nn

from domains.medical.uncertainty import Evidential, disagreement, entropy, has_evidence

_HALF = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class Average:
    """Average the softmax probabilities of one or more models and, where asked, of every flip.

    Args:
        models: each takes `[B, C, *grid]` and returns logits `[B, K, *grid]`; they are put into
            evaluation mode. All of them are on the device that images come on.
        mirror: also predict every flip of the spatial axes, and flip the result back.
        uncertainty: add maps of uncertainty behind the classes; see `maps`.
        precision: "32", or the mixed precision that the model was trained in.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        *,
        mirror: bool = False,
        uncertainty: bool = False,
        precision: str = "32",
    ) -> None:
        self.models = [model.eval() for model in models]
        self.mirror = mirror
        self.evidence = uncertainty and has_evidence(models)
        self.spread = uncertainty and not self.evidence and (mirror or len(models) > 1)
        self.precision = precision
        self.maps = ("uncertainty",) * uncertainty + ("disagreement",) * self.spread
        """Names of the maps that follow the classes: the models' own where all of them are
        `Evidential`, else "uncertainty" is the entropy of the average; "disagreement" is there
        where more than one member gives no uncertainty of its own."""
        if self.evidence:
            self.maps = cast(Evidential, models[0]).map_names

    @torch.inference_mode()
    def __call__(self, image: Tensor) -> Tensor:
        """Return float32 `[B, K, *grid]`, and the further channels `finish` needs for `maps`."""
        total: Tensor | None = None
        for member in self._members(image):
            total = member if total is None else total.add_(member)
        assert total is not None
        return total.div_(len(self.models) * 2 ** (self.mirror * (image.ndim - 2)))

    def finish(self, rows: Tensor) -> Tensor:
        """Return `[K + len(maps), ...]` of blended `[K or more, ...]` values."""
        if self.spread:
            whole = entropy(rows[:-1])
            return torch.cat([rows[:-1], whole, disagreement(whole, rows[-1:])])
        if self.maps and not self.evidence:
            return torch.cat([rows, entropy(rows)])
        return rows

    def _members(self, image: Tensor) -> Iterator[Tensor]:
        half = _HALF.get(self.precision)
        for model in self.models:
            for axes in _flips(image.ndim - 2) if self.mirror else [()]:
                flipped = image.flip(axes)
                with torch.autocast(image.device.type, half) if half else nullcontext():
                    extra = []
                    if self.evidence:
                        logits, maps = cast(Evidential, model).with_maps(flipped)
                        extra = [maps.float()]
                    else:
                        logits = model(flipped)
                member = logits.float().softmax(1)
                if self.spread:
                    extra = [entropy(member, 1)]
                yield torch.cat([member, *extra], 1).flip(axes)


def _flips(spatial_dims: int) -> Iterator[tuple[int, ...]]:
    """Axes of every flip, the empty one first."""
    axes = range(2, 2 + spatial_dims)
    for count in range(spatial_dims + 1):
        yield from combinations(axes, count)

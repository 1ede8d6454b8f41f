"""Clipped softmax attention, one query at a time in float64."""

from __future__ import annotations

from torch import Tensor

from shared_attention.masks import Mask
from shared_attention.references.rows import reference_rows


def reference_clipped_softmax(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
    alpha: float = 4.0,
    gamma: float | None = None,
    zeta: float = 1.0,
    length: int | None = None,
) -> Tensor:
    """Return clipped softmax attention `[B, H, L, Dv]` in float64."""

    def weigh(scores: Tensor, where: tuple[int, int, int]) -> Tensor:
        low = -alpha / (length or len(scores)) if gamma is None else gamma
        weights = (scores - scores.max()).exp()
        stretched = (zeta - low) * weights / weights.sum() + low
        return stretched.where(stretched > 0, 0).where(stretched < 1, 1)

    return reference_rows(q, k, v, weigh, mask=mask, bias=bias, scale=scale)

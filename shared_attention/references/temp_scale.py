"""Temperature-scaled attention, one query at a time in float64."""

from __future__ import annotations

from torch import Tensor

from shared_attention.masks import Mask
from shared_attention.references.rows import reference_rows


def reference_temp_scale(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
    temperature: float = 0.9,
) -> Tensor:
    """Return temperature-scaled attention `[B, H, L, Dv]` in float64."""

    def weigh(scores: Tensor, where: tuple[int, int, int]) -> Tensor:
        return (scores / temperature).softmax(0)

    return reference_rows(q, k, v, weigh, mask=mask, bias=bias, scale=scale)

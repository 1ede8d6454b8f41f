"""LogN-scaled attention, one query at a time in float64."""

from __future__ import annotations

import math

from torch import Tensor

from shared_attention.masks import Mask
from shared_attention.references.rows import reference_rows


def reference_log_n(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
    base: int = 512,
    at_least: float = 0.0,
) -> Tensor:
    """Return LogN-scaled attention `[B, H, L, Dv]` in float64."""

    def weigh(scores: Tensor, where: tuple[int, int, int]) -> Tensor:
        return (max(math.log(len(scores), base), at_least) * scores).softmax(0)

    return reference_rows(q, k, v, weigh, mask=mask, bias=bias, scale=scale)

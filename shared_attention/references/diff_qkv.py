"""DiffQKV attention with explicitly widened keys, one query at a time in float64."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from shared_attention.masks import Mask
from shared_attention.references.rows import reference_rows


def reference_diff_qkv(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    parameters: Mapping[str, Tensor],
    mask: Mask | None = None,
    bias: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """Return DiffQKV attention `[B, H, L, Dv]` in float64."""
    product = torch.einsum("dr,re->de", parameters["down"], parameters["up"])
    wide = torch.einsum("bhsd,de->bhse", k.double(), product)

    def weigh(scores: Tensor, where: tuple[int, int, int]) -> Tensor:
        return scores.softmax(0)

    return reference_rows(q, wide, v, weigh, mask=mask, bias=bias)

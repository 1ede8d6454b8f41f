"""Softplus attention with re-weighting, one query at a time in float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from shared_attention.masks import Mask
from shared_attention.references.rows import reference_rows


def reference_lssar(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None = None,
    power: float = 15.0,
    reweight: bool = True,
    form: str = "corrected",
) -> Tensor:
    """Return softplus attention with re-weighting `[B, H, L, Dv]` in float64."""
    width = q.shape[-1]
    q, k = q.double(), k.double()
    q = q / q.square().sum(-1, keepdim=True).sqrt().clamp(min=1e-12)
    seen = (k.square().sum(-1, keepdim=True) > 0) | k.isnan().any(-1, keepdim=True)
    k = k / torch.where(seen, k.square().sum(-1, keepdim=True), 1).sqrt()

    def weigh(scores: Tensor, where: tuple[int, int, int]) -> Tensor:
        count = len(scores)
        weights = torch.log1p(torch.exp(math.log(width) * math.log(count) * scores))
        weights = weights / weights.sum()
        if not reweight:
            return weights
        excess = (count * weights - (1 if count > 3 else 0)).clamp(min=0)
        if form == "corrected" and excess.max() < 1e-13:
            return weights
        sharp = excess**power
        return sharp / sharp.sum() if sharp.sum() > 0 else sharp

    return reference_rows(q, k, v, weigh, mask=mask, scale=1.0)

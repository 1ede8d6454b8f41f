"""Attention over parts of the keys, put together as if it had been computed at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def merge(out: Tensor, lse: Tensor, other_out: Tensor, other_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Merge softmax attention over two disjoint sets of keys.

    out = (e^lse out + e^lse' out') / (e^lse + e^lse'), computed around the larger of the two,
    so neither overflows; a part in which nothing is visible (lse = -inf) has no influence.

    Args:
        out: `[..., Dv]`, attention over the first keys.
        lse: `[...]`, its log-sum-exp.
        other_out: `[..., Dv]`.
        other_lse: `[...]`.

    Returns:
        `(out, lse)` over all keys.
    """
    top = torch.maximum(lse, other_lse)
    top = top.masked_fill(top == -math.inf, 0).detach()
    weight, other_weight = torch.exp(lse - top), torch.exp(other_lse - top)
    total = weight + other_weight
    empty = total == 0
    total = total.masked_fill(empty, 1)
    merged = out * (weight / total)[..., None] + other_out * (other_weight / total)[..., None]
    return merged, (torch.log(total) + top).masked_fill(empty, -math.inf)

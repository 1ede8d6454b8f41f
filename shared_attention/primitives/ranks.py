"""Counting positions by what is real, so that padding neither shifts blocks nor fills them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from shared_attention.primitives.topk import gather


def real_first(valid: Tensor) -> Tensor:
    """Return positions `[B, S]` with the real ones first, otherwise in order.

    Args:
        valid: bool `[B, S]`.
    """
    return (~valid).to(torch.uint8).argsort(dim=1, stable=True)


def take(x: Tensor, order: Tensor) -> Tensor:
    """Read positions `order [B, S']` of `x [B, H, S, D]`."""
    return gather(x, order[:, None].expand(-1, x.shape[1], -1))


def put_back(x: Tensor, order: Tensor) -> Tensor:
    """Undo `take` of all positions."""
    return take(x, order.argsort(dim=1))


def packed(x: Tensor, valid: Tensor) -> Tensor:
    """Move real positions of `x [B, H, S, D]` to the front and set the others to zero."""
    return take(x.masked_fill(~valid[:, None, :, None], 0), real_first(valid))


def ranks(valid: Tensor | None, length: int, count: int, device: torch.device) -> Tensor:
    """Return the place among real keys of the last one that each query may see causally.

    Args:
        valid: bool `[B, S]`; None when all keys are real.
        length: Number of queries L, aligned bottom-right.
        count: Number of keys S.
        device: Where the result lies.

    Returns:
        int64 `[B or 1, L]`; -1 for queries before the first real key.
    """
    if valid is None:
        return torch.arange(count - length, count, device=device)[None]
    seen = F.pad(valid.cumsum(1), (max(length - count, 0), 0))
    return seen[:, -length:] - 1

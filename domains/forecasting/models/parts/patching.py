"""Cut a series into overlapping patches."""

from __future__ import annotations

import torch
from torch import Tensor


def patch_count(length: int, patch: int, stride: int) -> int:
    """Return how many patches `patches` cuts from `length` steps.

    Raises:
        ValueError: `stride` is not between 1 and `patch`, or `patch` is longer than the series.
    """
    if not 1 <= stride <= patch <= length:
        raise ValueError(
            f"patch and stride: got {patch} and {stride}, "
            f"expected 1 <= stride <= patch <= look-back {length}"
        )
    return -(-(length - patch) // stride) + 1


def patches(x: Tensor, patch: int, stride: int) -> Tensor:
    """Cut `[..., L]` into `[..., N, patch]`, aligned to the last step.

    Where the patches do not divide L, the first value is repeated before it, so that no step is
    left out; the published PatchTST repeats the last value instead and drops the earliest steps.
    """
    length = (patch_count(x.shape[-1], patch, stride) - 1) * stride + patch
    before = x[..., :1].expand(*x.shape[:-1], length - x.shape[-1])
    return torch.cat([before, x], dim=-1).unfold(-1, patch, stride)

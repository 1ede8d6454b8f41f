"""Following attention through the layers of a model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def rollout(maps: Sequence[Tensor]) -> Tensor:
    """Follow attention through layers (Abnar and Zuidema, ACL 2020, arXiv:2005.00928).

    Each layer's matrix is averaged over heads, mixed half and half with the identity of the
    residual connection, its rows are normalised to sum to one, and the layers are multiplied.

    Args:
        maps: Self-attention matrices `[B, H, L, L]`, first layer first.

    Returns:
        `[B, L, L]`: how much each output position draws on each input position.

    Raises:
        ValueError: There are no matrices, or one is not square or of another size.
    """
    total = start(maps, "rollout")
    same = torch.eye(total.shape[-1], dtype=total.dtype, device=total.device)
    for weights in maps:
        mixed = weights.abs().mean(dim=1) + same
        total = (mixed / mixed.sum(-1, keepdim=True)) @ total
    return total


def start(maps: Sequence[Tensor], caller: str) -> Tensor:
    """Return the identity `[L, L]` that matrices `[B, H, L, L]` are multiplied on.

    Raises:
        ValueError: There are no matrices, or one is not square or of another size.
    """
    if not maps:
        raise ValueError(f"{caller}: got no matrices, expected one per layer")
    length = maps[0].shape[-1]
    for index, weights in enumerate(maps):
        if weights.shape[-2:] != (length, length):
            raise ValueError(
                f"{caller}: matrix {index} has shape {list(weights.shape)}, "
                f"expected [B, H, {length}, {length}]"
            )
    return torch.eye(length, dtype=maps[0].dtype, device=maps[0].device)

"""Scans of which one modality is worthless, to learn from what that looks like."""

from __future__ import annotations

import torch
from torch import Tensor

_KINDS = 3


def spoil(image: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Replace one modality of some samples by a constant, noise, or its own voxels shuffled.

    Constants are drawn from a normal distribution, noise has a deviation of 0 to 2: images are
    expected to be standardised. Draws come from torch's own state, as those of dropout do.

    Args:
        image: `[B, M, *grid]`.
        share: of the samples, 0 to 1.

    Returns:
        The images, and bool `[B, M]` which modalities are as they were.
    """
    batch, modalities = image.shape[:2]
    device = image.device
    hit = torch.rand(batch, device=device) < share
    which = torch.randint(modalities, (batch,), device=device)
    kept = ~(hit[:, None] & (which[:, None] == torch.arange(modalities, device=device)))
    kinds = torch.randint(_KINDS, (batch,), device=device)
    image = image.clone()
    for sample in hit.nonzero()[:, 0].tolist():
        modality = int(which[sample])
        image[sample, modality] = _spoilt(image[sample, modality], int(kinds[sample]))
    return image, kept


def _spoilt(scan: Tensor, kind: int) -> Tensor:
    level, width = torch.randn((), device=scan.device), 2 * torch.rand((), device=scan.device)
    if kind == 0:
        return level.to(scan.dtype).expand_as(scan)
    if kind == 1:
        return level / 2 + width * torch.randn_like(scan)
    return scan.flatten()[torch.randperm(scan.numel(), device=scan.device)].view_as(scan)

"""Losses of segmentation, MONAI's, chosen by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from monai.losses.dice import DiceLoss
from monai.losses.focal_loss import FocalLoss
from monai.losses.hausdorff_loss import LogHausdorffDTLoss
from torch import Tensor
from torch.nn import functional

from domains.medical.models.output import SegmentationOutput

BOUNDARY_WEIGHT = 0.1
"""Weight of the distance-transform term beside Dice and cross-entropy."""

Criterion = Callable[[Tensor, Tensor], Tensor]
"""Logits `[B, K, *grid]` and classes `[B, *grid]` to a scalar."""


def criterion(name: str, *, batch_dice: bool = False) -> Criterion:
    """Return a loss of logits and class indices.

    Dice leaves the background out, as nnU-Net's does; cross-entropy and focal loss see every
    class. Everything is computed in float32.

    Args:
        name: `dice_ce`, `dice_focal`, `dice_ce_boundary` (Karimi & Salcudean 2019, "Reducing the
            Hausdorff distance in medical image segmentation", logarithm of the
            distance-transform loss) or `cross_entropy`.
        batch_dice: take Dice over the whole batch.
    """
    if name == "cross_entropy":
        return _cross_entropy
    overlap = DiceLoss(softmax=True, include_background=False, batch=batch_dice)
    if name == "dice_focal":
        return _sum_of(partial(_one_hot, overlap), partial(_one_hot, FocalLoss(use_softmax=True)))
    dice_ce = _sum_of(partial(_one_hot, overlap), _cross_entropy)
    if name == "dice_ce":
        return dice_ce
    boundary = LogHausdorffDTLoss(softmax=True, include_background=False, batch=batch_dice)
    return _sum_of(dice_ce, lambda x, y: BOUNDARY_WEIGHT * _one_hot(boundary, x, y))


def supervised(output: SegmentationOutput, label: Tensor, loss: Criterion) -> Tensor:
    """Return the loss of a model's output with its further heads and auxiliary terms.

    The weights of all terms are scaled by those of the heads, so that these sum to 1 and the size
    of the loss does not depend on how many there are; a head of another resolution is compared
    with the nearest labels.

    Args:
        output: what the model gave for a batch.
        label: `[B, *grid]` class indices.
        loss: loss of one head.
    """
    heads = ((output.logits, 1.0), *output.heads)
    total = sum(weight for _, weight in heads)
    terms = [weight * loss(logits, _at(logits, label)) for logits, weight in heads]
    return torch.stack([*terms, *output.auxiliary.values()]).sum() / total


def _at(logits: Tensor, label: Tensor) -> Tensor:
    if logits.shape[2:] == label.shape[1:]:
        return label
    nearest = functional.interpolate(
        label[:, None].float(), size=logits.shape[2:], mode="nearest-exact"
    )
    return nearest[:, 0].long()


def _sum_of(first: Criterion, second: Criterion) -> Criterion:
    return lambda logits, label: first(logits, label) + second(logits, label)


def _cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    return functional.cross_entropy(logits.float(), label)


def _one_hot(loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, label: Tensor) -> Tensor:
    classes = functional.one_hot(label, logits.shape[1]).movedim(-1, 1)
    with torch.autocast(logits.device.type, enabled=False):
        return loss(logits.float(), classes.float())

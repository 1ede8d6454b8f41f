"""Margin loss with distance-weighted negatives."""

from __future__ import annotations

import torch
from torch import Tensor

_SURE = 1.4
"""Distance above which a negative costs nothing and is not drawn."""


def margin_loss(
    embedding: Tensor,
    target: Tensor,
    boundary: Tensor,
    *,
    margin: float = 0.2,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the mean loss of pairs that violate the margin, a scalar; 0 where there is no pair.

    Every anchor meets each image of its class, and for each of these one image of another class,
    drawn by `distance_weights`: [d_ap - β + α]_+ + [β - d_an + α]_+, divided by the number of
    terms above 0. Anchors without a positive or a negative are left out.

    Args:
        embedding: `[B, E]`, rows of length one.
        target: `[B]` class of each.
        boundary: `[B]` β of each anchor's class.
        margin: α.
        generator: of the draws; torch's own state where None, which training restores.

    Source: Wu et al., Sampling Matters in Deep Embedding Learning, ICCV 2017, equations 5 and 6.
    """
    embedding = embedding.float()
    distance = _distances(embedding)
    same = target[:, None] == target[None]
    positive = same & ~torch.eye(len(target), dtype=torch.bool, device=target.device)
    positive &= (~same).any(1)[:, None]
    anchor, other = positive.nonzero(as_tuple=True)
    if len(anchor) == 0:
        return embedding.sum() * 0
    weights = distance_weights(distance.detach(), ~same, embedding.shape[1])
    negative = torch.multinomial(weights[anchor], 1, generator=generator)[:, 0]
    near = (distance[anchor, other] - boundary[anchor] + margin).relu()
    far = (boundary[anchor] - distance[anchor, negative] + margin).relu()
    active = ((near > 0).sum() + (far > 0).sum()).clamp_min(1)
    return (near.sum() + far.sum()) / active


def distance_weights(
    distance: Tensor, allowed: Tensor, dims: int, *, cutoff: float = 0.5
) -> Tensor:
    """Return weights `[B, B]` to draw negatives with, the inverse of how common a distance is.

    On the unit sphere in n dimensions distances have density q(d) ∝ d^(n-2) (1 - d²/4)^((n-3)/2);
    a negative has weight 1 / q(max(d, cutoff)). Those too far to cost anything have none, unless
    an anchor has no other: then all are alike.

    Args:
        distance: `[B, B]`.
        allowed: `[B, B]` which are negatives of which.
        dims: n.
        cutoff: smallest distance that is told apart; keeps the noise of hard negatives down.
    """
    d = distance.clamp(min=cutoff, max=1.999)
    log = (2 - dims) * d.log() - (dims - 3) / 2 * (1 - d.square() / 4).log()
    close = allowed & (distance < _SURE)
    log = log.masked_fill(~close, -torch.inf)
    weights = (log - log.amax(1, keepdim=True).nan_to_num(neginf=0.0)).exp()
    return torch.where(close.any(1, keepdim=True), weights, allowed.to(weights.dtype))


def _distances(x: Tensor) -> Tensor:
    """Return Euclidean distances `[B, B]`; their gradient is finite where two rows are equal."""
    squared = x.square().sum(1)
    gap = squared[:, None] + squared[None] - 2 * x @ x.T
    return gap.clamp_min(1e-8).sqrt()

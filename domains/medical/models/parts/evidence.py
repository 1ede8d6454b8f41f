"""Dirichlet evidence of classes: opinions, their combination, and losses.

Evidence e >= 0 of K classes is a Dirichlet distribution with parameters a = e + 1 (Sensoy et al.,
Evidential Deep Learning, NeurIPS 2018). With S = sum(a) the opinion has belief e_k / S in class k
and vacuity K / S, which add up to one, and expects probabilities a_k / S.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

_MOST = 12.0
"""Exponent of the most evidence, about 160 000."""


def evidence_from(scores: Tensor) -> Tensor:
    """Return evidence exp(score) of a layer's scores, float32, bounded.

    Of one opinion alone the logits `log_parameters` are then softplus(score), so a score moves
    them as far as in an ordinary network. With softplus as evidence they would be the logarithm
    of the score, and hundreds of steps would pass before a network can be sure of anything.
    """
    return scores.float().clamp(max=_MOST).exp()


def vacuity(evidence: Tensor) -> Tensor:
    """Return what is left after all belief, K / S, in (0, 1].

    Args:
        evidence: `[B, K, *grid]`.

    Returns:
        `[B, 1, *grid]`.
    """
    classes = evidence.shape[1]
    return classes / (evidence.sum(1, keepdim=True) + classes)


def belief(evidence: Tensor) -> Tensor:
    """Return belief in each class `[B, K, *grid]`."""
    return evidence / (evidence.sum(1, keepdim=True) + evidence.shape[1])


def log_parameters(evidence: Tensor) -> Tensor:
    """Return log(e + 1): logits whose softmax is the expected probability."""
    return torch.log1p(evidence)


def combine(one: Tensor, other: Tensor) -> Tensor:
    """Combine the opinions of two sources by Dempster's rule; returns the evidence of the result.

    Masses are on single classes and on the whole frame only, so the rule is
    b_k = (b'_k b''_k + b'_k u'' + u' b''_k) / (1 - C) and u = u' u'' / (1 - C) with the conflict
    C = sum of b'_i b''_j over i != j (Han et al., Trusted Multi-View Classification, ICLR 2021).
    The evidence of the result is K b_k / u; as b / u = e / K of each source, 1 - C cancels and
    e_k = e'_k + e''_k + e'_k e''_k / K. No evidence is neutral, and order does not matter.

    Args:
        one: `[B, K, *grid]`.
        other: of the same shape.
    """
    return one + other + one * other / one.shape[1]


def conflict(one: Tensor, other: Tensor) -> Tensor:
    """Return the conflict of Dempster's rule, C = sum of b'_i b''_j over i != j, in [0, 1).

    Belief that two sources give to different classes; neither need be vacuous.

    Args:
        one: evidence `[B, K, *grid]`.
        other: of the same shape.

    Returns:
        `[B, 1, *grid]`.
    """
    a, b = belief(one), belief(other)
    return a.sum(1, keepdim=True) * b.sum(1, keepdim=True) - (a * b).sum(1, keepdim=True)


def evidential_cross_entropy(evidence: Tensor, label: Tensor) -> Tensor:
    """Return the expected cross-entropy under the Dirichlet, digamma(S) - digamma(a_label).

    Args:
        evidence: `[B, K, *grid]`.
        label: `[B, *grid]` int64.

    Returns:
        `[B, *grid]`.
    """
    parameters = evidence + 1
    of_label = parameters.gather(1, label[:, None])[:, 0]
    return torch.digamma(parameters.sum(1)) - torch.digamma(of_label)


def misleading_evidence(evidence: Tensor, label: Tensor) -> Tensor:
    """Return KL(Dir(a~), Dir(1)) where a~ is `a` with the label's own parameter set to one.

    It is zero where no class but the label's has evidence.

    Args:
        evidence: `[B, K, *grid]`.
        label: `[B, *grid]` int64.

    Returns:
        `[B, *grid]`.
    """
    return knowledge(evidence.scatter(1, label[:, None], 0.0))


def knowledge(evidence: Tensor) -> Tensor:
    """Return KL(Dir(e + 1), Dir(1)), zero only for an opinion without any evidence.

    Args:
        evidence: `[B, K, *grid]`.

    Returns:
        `[B, *grid]`.
    """
    parameters, total = evidence + 1, evidence.sum(1) + evidence.shape[1]
    expected = torch.digamma(parameters) - torch.digamma(total)[:, None]
    return (
        torch.lgamma(total)
        - math.lgamma(evidence.shape[1])
        - torch.lgamma(parameters).sum(1)
        + (evidence * expected).sum(1)
    )


def dice_loss(probability: Tensor, label: Tensor) -> Tensor:
    """Return one minus the mean Dice of the foreground classes, pooled over the batch.

    Args:
        probability: `[B, K, *grid]`.
        label: `[B, *grid]` int64.
    """
    classes = probability.shape[1]
    truth = functional.one_hot(label, classes).movedim(-1, 1).to(probability.dtype)
    axes = [0, *range(2, probability.dim())]
    both = (probability * truth).sum(axes)
    each = probability.sum(axes) + truth.sum(axes)
    return 1 - ((2 * both + 1) / (each + 1))[1:].mean()

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
    wrong = evidence.scatter(1, label[:, None], 0.0)
    parameters, total = wrong + 1, wrong.sum(1) + wrong.shape[1]
    expected = torch.digamma(parameters) - torch.digamma(total)[:, None]
    return (
        torch.lgamma(total)
        - math.lgamma(wrong.shape[1])
        - torch.lgamma(parameters).sum(1)
        + (wrong * expected).sum(1)
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

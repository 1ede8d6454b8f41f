"""Adversarial training of attention: Attention AT and Attention iAT.

Source: Kitada and Iyatomi, Attention Meets Perturbations: Robust and Interpretable Attention with
Adversarial Training, IEEE Access 2021 (arXiv:2009.12064).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from torch import Tensor, nn

from shared_attention.regularisers.attack import attack
from shared_attention.regularisers.perturbed import perturbed
from shared_attention.regularisers.randomness import random_state, replayed


class AdversarialLoss(NamedTuple):
    """A loss twice: train on `clean + factor * adversarial`, with the paper's factor 1."""

    clean: Tensor
    """The loss itself; it does not have to be computed again."""
    adversarial: Tensor
    """The loss under the perturbation of attention that raises it most."""


def attention_at(
    model: nn.Module,
    loss: Callable[[], Tensor],
    *,
    epsilon: float = 1.0,
    layers: Iterable[str] | None = None,
) -> AdversarialLoss:
    """Compute a loss, and again under the worst perturbation of the attention scores.

    It costs two forward passes and a backward pass down to the first layer that is perturbed.
    Both passes have the same random numbers, so that dropout is no part of the difference. The
    released code calls `backward` to find the perturbation, which leaves the gradient of the
    clean loss in the parameters, so that it counts twice; here no `.grad` is touched.

    Args:
        model: Any module with `MultiHeadAttention` layers.
        loss: Runs the model on a batch and returns a scalar; it is called twice.
        epsilon: Length of the perturbation; see `worst_perturbation`.
        layers: Names of the layers to perturb; None: all.

    Returns:
        Both losses, to be added and differentiated by the caller.

    Raises:
        ValueError: The model has no such layer, or the loss did not run one.
        UnsupportedError: A layer's mechanism takes no bias that requires gradients.
    """
    return _twice(model, loss, epsilon, False, layers)


def attention_iat(
    model: nn.Module,
    loss: Callable[[], Tensor],
    *,
    epsilon: float = 1.0,
    layers: Iterable[str] | None = None,
) -> AdversarialLoss:
    """As `attention_at`, along differences of attention between positions.

    The perturbation of position t is r_t = Σ_k α_tk d_tk with d_tk = a_t - a_k, the differences
    of its weight from those of the other positions that the query sees. The worst α under a joint
    norm is α ∝ g_t d_tk, so r_t ∝ g_t Σ_k d_tk²: the gradient of AT, weighted towards positions
    whose attention stands out. r is then scaled to the length epsilon, which makes any common
    normalisation of the d_tk irrelevant. It needs memory for the weights only, not for the d_tk.

    Dividing each d_t by a norm of its own, ‖(d_tk)_k‖, would undo that weighting: Σ_k d_tk² is
    then 1 and iAT is AT exactly. The released code divides so, and takes the differences between
    the samples of a batch, with the sign flipped.

    Raises:
        ValueError: As `attention_at`.
        UnsupportedError: As `attention_at`, or a mechanism is not linear in v.
    """
    return _twice(model, loss, epsilon, True, layers)


def _twice(
    model: nn.Module,
    loss: Callable[[], Tensor],
    epsilon: float,
    differences: bool,
    layers: Iterable[str] | None,
) -> AdversarialLoss:
    start = random_state()
    clean, worst = attack(model, loss, epsilon, differences, layers)
    with replayed(start), perturbed(model, worst):
        return AdversarialLoss(clean, loss())

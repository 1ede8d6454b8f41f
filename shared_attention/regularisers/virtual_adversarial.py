"""Virtual adversarial training of attention: Attention VAT and Attention iVAT.

Source: Kitada and Iyatomi, Making Attention Mechanisms More Robust and Interpretable with Virtual
Adversarial Training, Applied Intelligence 2022 (arXiv:2104.08763), on Miyato et al., Virtual
Adversarial Training, TPAMI 2018 (arXiv:1704.03976).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared_attention.regularisers.attack import (
    Scores,
    along,
    check_called,
    check_epsilon,
    spreads,
)
from shared_attention.regularisers.attended import attended
from shared_attention.regularisers.perturbed import perturbed, probed
from shared_attention.regularisers.randomness import random_state, replayed

Divergence = Callable[[Tensor, Tensor], Tensor]


def categorical_divergence(clean: Tensor, other: Tensor) -> Tensor:
    """Return KL(softmax(clean) ‖ softmax(other)), the mean over all but the classes.

    Args:
        clean: Logits `[..., classes]`.
        other: Logits of the same shape.
    """
    log_p, log_q = F.log_softmax(clean, -1), F.log_softmax(other, -1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean()


def bernoulli_divergence(clean: Tensor, other: Tensor) -> Tensor:
    """Return KL between independent yes/no outputs, the mean over all of them.

    Args:
        clean: Logits of any shape.
        other: Logits of the same shape.
    """
    yes = torch.sigmoid(clean)
    gains = yes * (F.logsigmoid(clean) - F.logsigmoid(other))
    return (gains + (1 - yes) * (F.logsigmoid(-clean) - F.logsigmoid(-other))).mean()


def attention_vat(
    model: nn.Module,
    logits: Callable[[], Tensor],
    *,
    epsilon: float = 1.0,
    divergence: Divergence = categorical_divergence,
    iterations: int = 1,
    probe: float = 0.1,
    layers: Iterable[str] | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return how far predictions move under the worst perturbation of the attention scores.

    No label is used, so batches may be unlabelled, alone or beside labelled ones. The gradient
    of a divergence vanishes where nothing is perturbed; its steepest direction is the first
    eigenvector of its Hessian, found by power iteration from a random direction. Predictions
    without perturbation are taken as given: no gradient goes through them.

    It costs two forward passes, and a forward and backward pass for each iteration; all have the
    same random numbers. Layers that keep running statistics see each pass.

    Args:
        model: Any module with `MultiHeadAttention` layers.
        logits: Runs the model on a batch and returns what `divergence` takes.
        epsilon: Length of the perturbation of each row of scores; see `worst_perturbation`.
        divergence: `divergence(clean, other) -> scalar`, least where both are equal.
        iterations: Steps of the power iteration; one in the paper.
        probe: Length of the perturbation at which the gradient is taken. Too small a length
            drowns in rounding: a float32 gradient is about `probe` times the curvature.
        layers: Names of the layers to perturb; None: all.
        generator: Source of the first direction; PyTorch's own by default.

    Returns:
        A scalar, to be added to a loss times a factor (1 in the paper).

    Raises:
        ValueError: The model has no such layer, `logits` did not run one, or a number is not
            positive.
        UnsupportedError: A layer's mechanism takes no bias that requires gradients.
    """
    return _vat(model, logits, epsilon, divergence, iterations, probe, layers, generator, False)


def attention_ivat(
    model: nn.Module,
    logits: Callable[[], Tensor],
    *,
    epsilon: float = 1.0,
    divergence: Divergence = categorical_divergence,
    iterations: int = 1,
    probe: float = 0.1,
    layers: Iterable[str] | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """As `attention_vat`, along differences of attention between positions.

    The perturbation is r_t = Σ_k α_tk d_tk as in `attention_iat`, and the power iteration runs
    over α; what it does to r is to weight gradients by Σ_k d_tk².

    Raises:
        ValueError: As `attention_vat`.
        UnsupportedError: As `attention_vat`, or a mechanism is not linear in v.
    """
    return _vat(model, logits, epsilon, divergence, iterations, probe, layers, generator, True)


def _vat(
    model: nn.Module,
    logits: Callable[[], Tensor],
    epsilon: float,
    divergence: Divergence,
    iterations: int,
    probe: float,
    layers: Iterable[str] | None,
    generator: torch.Generator | None,
    differences: bool,
) -> Tensor:
    check_epsilon(epsilon)
    if not (iterations > 0 and probe > 0):
        raise ValueError(
            f"attention_vat: iterations and probe got {iterations} and {probe}, "
            "expected more than 0"
        )
    chosen = None if layers is None else list(layers)
    start = random_state()
    record = attended(model, chosen) if differences else nullcontext()
    with torch.no_grad(), record as calls, probed(model, chosen) as probes:
        clean = logits()
    check_called(probes)
    weights = spreads(calls)
    direction = _random_direction(probes, weights, generator)
    for _ in range(iterations):
        moved = {n: [(probe * r).requires_grad_() for r in rows] for n, rows in direction.items()}
        leaves = [r for rows in moved.values() for r in rows]
        with torch.enable_grad(), replayed(start), perturbed(model, moved):
            rise = divergence(clean, logits())
        found = iter(torch.autograd.grad(rise, leaves, materialize_grads=True))
        gradients = {name: [next(found) for _ in rows] for name, rows in moved.items()}
        direction = along(gradients, weights, 1.0)
    worst = {name: [epsilon * r for r in rows] for name, rows in direction.items()}
    with replayed(start), perturbed(model, worst):
        return divergence(clean, logits())


def _random_direction(
    probes: Scores, weights: Scores | None, generator: torch.Generator | None
) -> Scores:
    drawn = {
        name: [
            torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator) for x in rows
        ]
        for name, rows in probes.items()
    }
    roots = weights and {name: [w.sqrt() for w in rows] for name, rows in weights.items()}
    return along(drawn, roots, 1.0)

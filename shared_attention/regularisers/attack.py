"""The perturbation of attention scores that raises a loss most."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from shared_attention.regularisers.attended import Attended, attended
from shared_attention.regularisers.perturbed import probed

Scores = dict[str, list[Tensor]]


def worst_perturbation(
    model: nn.Module,
    loss: Callable[[], Tensor],
    *,
    epsilon: float,
    differences: bool = False,
    layers: Iterable[str] | None = None,
) -> Scores:
    """Return the perturbation r of scores, of length epsilon, along which a loss rises fastest.

    Each row of scores, that is each query of each head, gets r = ε g / ‖g‖ over the keys it sees,
    with g the gradient of the loss at r = 0; zero where g is. With one query and one head this is
    the paper's r; ε means the same for any number of them. No gradient of a parameter changes.

    Args:
        model: Any module with `MultiHeadAttention` layers.
        loss: Runs the model on a batch and returns a scalar.
        epsilon: Length of the perturbation of each row, in units of the scores.
        differences: Whether g is weighted as in iAT; see `attention_iat`.
        layers: Names of the layers; None: all.

    Returns:
        For `perturbed`: by name of the layer, `[B, H, L, S]` for each of its calls.

    Raises:
        ValueError: The model has no such layer, or the loss did not run one.
        UnsupportedError: A layer's mechanism takes no bias that requires gradients.
    """
    with torch.enable_grad():
        return attack(model, loss, epsilon, differences, layers)[1]


def attack(
    model: nn.Module,
    loss: Callable[[], Tensor],
    epsilon: float,
    differences: bool,
    layers: Iterable[str] | None,
) -> tuple[Tensor, Scores]:
    """Return the loss, ready for `backward`, and what `worst_perturbation` does."""
    check_epsilon(epsilon)
    chosen = None if layers is None else list(layers)
    record = attended(model, chosen) if differences else nullcontext()
    with record as calls, probed(model, chosen) as probes:
        clean = loss()
    check_called(probes)
    leaves = [probe for name in probes for probe in probes[name]]
    gradients = torch.autograd.grad(clean, leaves, retain_graph=True, materialize_grads=True)
    rows = iter(gradients)
    found = {name: [next(rows) for _ in probes[name]] for name in probes}
    return clean, along(found, spreads(calls), epsilon)


def along(gradients: Scores, weights: Scores | None, length: float) -> Scores:
    """Return gradients, times weights where given, with each row scaled to a length."""
    return {
        name: [
            to_length(g if weights is None else g * weights[name][i], length)
            for i, g in enumerate(found)
        ]
        for name, found in gradients.items()
    }


def to_length(rows: Tensor, length: float) -> Tensor:
    """Scale each row `[..., S]` to a length; rows of zeros stay."""
    largest = rows.abs().amax(-1, keepdim=True)
    rows = torch.where(largest > 0, rows / largest, 0)
    return length * rows / rows.norm(dim=-1, keepdim=True).clamp_min(1)


def spreads(calls: list[Attended] | None) -> Scores | None:
    """Return `spread` of each call by layer, or None where there is no record."""
    if calls is None:
        return None
    found: Scores = {}
    for call in calls:
        found.setdefault(call.layer, []).append(spread(call.weights.detach(), call.allowed))
    return found


def spread(weights: Tensor, allowed: Tensor) -> Tensor:
    """Return Σ_k (a_t - a_k)² over the keys k that a query sees; zero at keys t it does not.

    Args:
        weights: Attention matrices `[B, H, L, S]`.
        allowed: bool, broadcastable to it.

    Returns:
        `[B, H, L, S]`.
    """
    count = allowed.sum(-1, keepdim=True).clamp_min(1)
    mean = (weights * allowed).sum(-1, keepdim=True) / count
    squares = (weights - mean).square() * allowed
    return (count * squares + squares.sum(-1, keepdim=True)) * allowed


def check_epsilon(epsilon: float) -> None:
    """Refuse a length that is not positive."""
    if not epsilon > 0:
        raise ValueError(f"perturbing the scores: epsilon got {epsilon}, expected more than 0")


def check_called(probes: Scores) -> None:
    """Refuse a pass that ran no attention layer."""
    if not probes:
        raise ValueError(
            "perturbing the scores: no attention layer was called; calls with a cache take none"
        )

"""Adding perturbations to the scores of attention layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from shared_attention.regularisers.layers import choose_layers

Perturbations = Mapping[str, Sequence[Tensor]]
"""By name of the layer, one tensor for each of its calls, broadcastable to [B, H, L, S]."""


@contextmanager
def perturbed(model: nn.Module, perturbations: Perturbations) -> Iterator[None]:
    """Add given perturbations to the scores of attention layers, beside any bias they have.

    Masks stay as they are: a hidden key stays hidden whatever is added to its score.

    Args:
        model: Any module with `MultiHeadAttention` layers.
        perturbations: For each layer, what is added in its first call, in its second, and so on.

    Raises:
        ValueError: The model has no such layer, or a layer was called more or fewer times than
            there are perturbations for it.
        UnsupportedError: A layer's mechanism takes no bias that requires gradients.
    """
    left = {name: list(given) for name, given in perturbations.items()}

    def supply(name: str, q: Tensor, k: Tensor) -> Tensor:
        if not left[name]:
            raise ValueError(
                f"perturbed: layer {name!r} was called more than the "
                f"{len(perturbations[name])} times that there are perturbations for"
            )
        return left[name].pop(0).to(q.dtype)

    with _added(model, perturbations, supply):
        yield
    for name, rest in left.items():
        if rest:
            raise ValueError(
                f"perturbed: layer {name!r} was called {len(rest)} times fewer than there are "
                "perturbations for; calls with a cache take none"
            )


@contextmanager
def probed(
    model: nn.Module, layers: Iterable[str] | None = None
) -> Iterator[dict[str, list[Tensor]]]:
    """Add zeros that require gradients to the scores, to find what moving them would do.

    Args:
        model: Any module with `MultiHeadAttention` layers.
        layers: Names of the layers; None: all.

    Yields:
        By name of the layer, the zeros `[B, H, L, S]` of each of its calls, filled as the model
        runs: a form that `perturbed` takes.

    Raises:
        ValueError: The model has no such layer.
        UnsupportedError: A layer's mechanism takes no bias that requires gradients.
    """
    probes: dict[str, list[Tensor]] = {}

    def supply(name: str, q: Tensor, k: Tensor) -> Tensor:
        probe = q.new_zeros(*q.shape[:3], k.shape[2]).requires_grad_()
        probes.setdefault(name, []).append(probe)
        return probe

    with _added(model, layers, supply):
        yield probes


@contextmanager
def _added(
    model: nn.Module, names: Iterable[str] | None, supply: Callable[[str, Tensor, Tensor], Tensor]
) -> Iterator[None]:
    chosen = choose_layers(model, names, "bias_grad", "perturbing the scores")
    handles: list[Any] = []
    try:
        for name, layer in chosen.items():
            begin, add = _adding(name, supply)
            handles.append(layer.register_forward_pre_hook(begin))
            handles.append(layer.mechanism.register_forward_pre_hook(add, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _adding(
    name: str, supply: Callable[[str, Tensor, Tensor], Tensor]
) -> tuple[Callable[..., None], Callable[..., Any]]:
    """Return hooks of a layer and of its mechanism.

    Only the mechanism's first call in a call of the layer is added to: those that record its
    weights repeat it with what was added to it.
    """
    due = False

    def begin(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        nonlocal due
        due = True

    def add(
        module: nn.Module, inputs: tuple[Tensor, ...], arguments: Mapping[str, Any]
    ) -> tuple[tuple[Tensor, ...], dict[str, Any]] | None:
        nonlocal due
        if not due:
            return None
        due = False
        extra, bias = supply(name, inputs[0], inputs[1]), arguments["bias"]
        return inputs, {**arguments, "bias": extra if bias is None else bias + extra}

    return begin, add

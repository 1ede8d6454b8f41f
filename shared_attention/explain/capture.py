"""Recording what the attention layers of a model do while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from shared_attention.explain.matrix import attention_matrix, refuse_nonlinear
from shared_attention.explain.randomness import random_state, restore
from shared_attention.layers.multihead import MultiHeadAttention

OnCall = Callable[[str, "LayerTrace"], None]


@dataclass(frozen=True)
class LayerTrace:
    """One call of a `MultiHeadAttention` layer."""

    weights: Tensor
    """Effective matrix A `[B, H, L, S]`, without gradients."""
    values: Tensor
    """`[B, H, S, D]`, those of grouped heads repeated."""
    out: Tensor
    """Output of the mechanism `[B, H, L, D]`, equal to A v; part of the graph of the pass."""
    inputs: Tensor
    """Input of the layer `[B, L, d_model]`."""
    projection: Tensor
    """Weight of the output projection by heads, `[H, D, d_model]`."""


@contextmanager
def capture(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Record the effective attention matrix of each `MultiHeadAttention` during forward passes.

    Calls with a cache are not recorded. Each forward pass costs as many extra calls of the
    mechanism as there are keys per head width.

    Args:
        model: Any module.

    Yields:
        Matrices `[B, H, L, S]` of the latest pass by module name, filled as the model runs.

    Raises:
        UnsupportedError: A layer's mechanism is not linear in v.
    """
    maps: dict[str, Tensor] = {}
    with _watching(model, lambda name, seen: maps.update({name: seen.weights})):
        yield maps


@contextmanager
def trace(model: nn.Module) -> Iterator[dict[str, LayerTrace]]:
    """As `capture`, with values, outputs and inputs: what relevance and head diagnostics need.

    Args:
        model: Any module.

    Yields:
        The latest call of each layer by module name, filled as the model runs.

    Raises:
        UnsupportedError: A layer's mechanism is not linear in v.
    """
    traces: dict[str, LayerTrace] = {}
    with _watching(model, lambda name, seen: traces.update({name: seen})):
        yield traces


def attention_layers(model: nn.Module, what: str) -> dict[str, MultiHeadAttention]:
    """Return the layers by name.

    Args:
        model: Any module.
        what: What they are needed for, as messages put it.

    Raises:
        UnsupportedError: There are none, or the mechanism of one is not linear in v.
    """
    layers = {n: m for n, m in model.named_modules() if isinstance(m, MultiHeadAttention)}
    for name, layer in layers.items():
        refuse_nonlinear(layer.spec, f"{what} of layer {name!r}")
    return layers


@contextmanager
def _watching(model: nn.Module, seen: OnCall) -> Iterator[None]:
    handles: list[Any] = []
    layers = attention_layers(model, "capture")
    try:
        for name, layer in layers.items():
            handles += _watch(name, layer, seen)
        yield
    finally:
        for handle in handles:
            handle.remove()


def _watch(name: str, layer: MultiHeadAttention, seen: OnCall) -> list[Any]:
    """Call `seen` after each call of the layer's mechanism."""
    random: dict[str, Tensor] = {}
    entered: list[Tensor] = []
    replaying = False

    def enter(module: nn.Module, inputs: tuple[Tensor, ...], arguments: Mapping[str, Any]) -> None:
        entered[:] = [inputs[0] if inputs else arguments["x"]]

    def remember(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if not replaying:
            random.update(random_state(inputs[0].device))

    def record(
        module: nn.Module, inputs: tuple[Tensor, ...], arguments: Mapping[str, Any], out: Tensor
    ) -> None:
        nonlocal replaying
        if replaying:
            return
        *query, k, v = inputs
        after = random_state(k.device)
        replaying = True
        try:
            restore(random, k.device)
            with torch.no_grad():
                weights = attention_matrix(module, query[0] if query else None, k, **arguments)
        finally:
            replaying = False
            restore(after, k.device)
        heads = out.shape[1]
        projection = layer.project_out.weight.detach().T.unflatten(0, (heads, -1))
        values = v.repeat_interleave(heads // v.shape[1], 1)
        seen(name, LayerTrace(weights, values, out, entered[0], projection))

    return [
        layer.register_forward_pre_hook(enter, with_kwargs=True),
        layer.mechanism.register_forward_pre_hook(remember),
        layer.mechanism.register_forward_hook(record, with_kwargs=True),
    ]

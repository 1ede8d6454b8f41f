"""What a model attends to during a forward pass, with gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from shared_attention import masks
from shared_attention.dispatch import attention_output
from shared_attention.explain import attention_matrix
from shared_attention.layers.multihead import MultiHeadAttention
from shared_attention.masks import Mask
from shared_attention.module import Attention
from shared_attention.regularisers.layers import choose_layers
from shared_attention.regularisers.randomness import random_state, replayed


@dataclass(frozen=True)
class Attended:
    """One call of an attention layer."""

    layer: str
    """Name of the layer in the model."""
    weights: Tensor
    """Effective attention matrix `[B, H, L, S]`, differentiable; zero at hidden keys."""
    allowed: Tensor
    """bool `[B or 1, H or 1, L or 1, S]`, the keys that the mask lets each query see."""
    rows: Tensor
    """bool `[B or 1, L]`, the queries that count: in self-attention under `masks.keys`, the
    positions that are not padding; all of them otherwise. Other padding of queries is unknown
    here: give it with `dataclasses.replace(call, rows=...)`."""


@contextmanager
def attended(model: nn.Module, layers: Iterable[str] | None = None) -> Iterator[list[Attended]]:
    """Record, with gradients, the effective weights of attention layers during forward passes.

    Weights come from the mechanism where it gives them with its output, which costs one more
    call of it, and from applying it to the identity otherwise, which costs S / D calls. Either
    way `[B, H, L, S]` is in memory. Outputs and random numbers of the model are unchanged.
    Calls with a cache, and of `MultiHeadAttention.output`, are not recorded.

    Args:
        model: Any module with `MultiHeadAttention` layers.
        layers: Names of the layers to record; None: all.

    Yields:
        The calls in order, filled as the model runs. A layer that runs twice is there twice.

    Raises:
        ValueError: The model has no such layer.
        UnsupportedError: A layer's mechanism is not linear in v.
    """
    chosen = choose_layers(model, layers, "linear_in_v", "recording the attention")
    calls: list[Attended] = []
    handles: list[Any] = []
    try:
        for name, layer in chosen.items():
            handles += _watch(name, layer, calls)
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _watch(name: str, layer: MultiHeadAttention, calls: list[Attended]) -> list[Any]:
    crosses = False
    start = random_state()

    def note(module: nn.Module, inputs: tuple[Any, ...], arguments: Mapping[str, Any]) -> None:
        nonlocal crosses
        crosses = (inputs[1] if len(inputs) > 1 else arguments.get("context")) is not None

    def remember(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal start
        start = random_state()

    def record(
        module: nn.Module, inputs: tuple[Tensor, ...], arguments: Mapping[str, Any], out: Tensor
    ) -> None:
        *query, k, v = inputs
        q = query[0] if query else None
        with replayed(start):
            weights = _weights(layer, module, q, k, v, arguments)
        mask = arguments["mask"]
        if q is None:
            mask = masks.causal() if mask is None else masks.causal() & mask
        length, count = weights.shape[-2:]
        allowed = _allowed(mask, length, count, k.device)
        valid = masks.split(mask).keys
        rows = torch.ones(1, length, dtype=torch.bool, device=k.device)
        if valid is not None and not crosses:
            rows = valid.to(k.device)
        calls.append(Attended(name, weights, allowed, rows))

    return [
        layer.register_forward_pre_hook(note, with_kwargs=True),
        layer.mechanism.register_forward_pre_hook(remember),
        layer.mechanism.register_forward_hook(record, with_kwargs=True),
    ]


def _weights(
    layer: MultiHeadAttention,
    module: nn.Module,
    q: Tensor | None,
    k: Tensor,
    v: Tensor,
    arguments: Mapping[str, Any],
) -> Tensor:
    gives = layer.spec.rich is not None and layer.spec.supports("weights")
    if q is not None and gives and isinstance(module, Attention):
        rich = attention_output(
            q, k, v, layer.spec.name, need=("weights",), **arguments, **module.options
        )
        assert rich.weights is not None
        return rich.weights
    return attention_matrix(_WithoutHooks(module), q, k, **arguments)


class _WithoutHooks(nn.Module):
    """Calls a module without its hooks, which may add perturbations that are there already."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Any, **arguments: Any) -> Tensor:
        return self.module.forward(*inputs, **arguments)


def _allowed(mask: Mask | None, length: int, count: int, device: torch.device) -> Tensor:
    if mask is None:
        return torch.ones(1, 1, 1, count, dtype=torch.bool, device=device)
    return mask.to_dense(length, count, device)

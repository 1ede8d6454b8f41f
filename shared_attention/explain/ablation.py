"""Running a model without some of its heads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from shared_attention.errors import nearest
from shared_attention.layers.multihead import MultiHeadAttention

Heads = Mapping[str, Sequence[int]]


@contextmanager
def ablate(model: nn.Module, heads: Heads) -> Iterator[None]:
    """Let heads give zero inside the block, streamed or not, whatever their mechanism.

    Args:
        model: Any module.
        heads: Heads by name of their `MultiHeadAttention`, as `model.named_modules()` names it.

    Raises:
        ValueError: There is no such layer or head.
    """
    layers = named_layers(model)
    check_heads("ablate", layers, heads)
    handles = []
    try:
        for name, which in heads.items():
            handles.append(
                layers[name].project_out.register_forward_pre_hook(_zero(layers[name], which))
            )
        yield
    finally:
        for handle in handles:
            handle.remove()


def _zero(layer: MultiHeadAttention, heads: Sequence[int]) -> Callable[..., Any]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        (joined,) = inputs
        keep = torch.ones(layer.num_heads, dtype=joined.dtype, device=joined.device)
        keep[list(heads)] = 0
        return (joined * keep.repeat_interleave(layer.head_dim),)

    return hook


def head_importance(model: nn.Module, score: Callable[[], float]) -> dict[str, Tensor]:
    """Return by how much the score falls without each head, one at a time.

    Args:
        model: Any module.
        score: Runs the model and says how good it is, as accuracy on held-out examples; called
            without gradients.

    Returns:
        `[H]` by layer; negative where the model is better without the head.
    """
    whole = quietly(score)
    found = {}
    for name, layer in named_layers(model).items():
        losses = torch.zeros(layer.num_heads)
        for head in range(layer.num_heads):
            with ablate(model, {name: [head]}):
                losses[head] = whole - quietly(score)
        found[name] = losses
    return found


def quietly(score: Callable[[], float]) -> float:
    """Return the score, computed without gradients."""
    with torch.no_grad():
        return score()


def named_layers(model: nn.Module) -> dict[str, MultiHeadAttention]:
    """Return every `MultiHeadAttention` by name."""
    return {n: m for n, m in model.named_modules() if isinstance(m, MultiHeadAttention)}


def check_heads(caller: str, layers: Mapping[str, MultiHeadAttention], heads: Heads) -> None:
    """Raise ValueError where `heads` names a layer or head that there is not."""
    for name, which in heads.items():
        if name not in layers:
            raise ValueError(f"{caller}: no attention layer {name!r}{nearest(name, list(layers))}")
        for head in which:
            if not 0 <= head < layers[name].num_heads:
                raise ValueError(
                    f"{caller}: layer {name!r} got head {head}, "
                    f"expected 0 to {layers[name].num_heads - 1}"
                )

"""Choosing attention layers of a model by name."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from shared_attention.errors import nearest, unsupported
from shared_attention.layers.multihead import MultiHeadAttention


def choose_layers(
    model: nn.Module, names: Iterable[str] | None, capability: str, what: str
) -> dict[str, MultiHeadAttention]:
    """Return the chosen attention layers by name.

    Args:
        model: Any module.
        names: Names of `MultiHeadAttention` modules as `named_modules` has them; None: all.
        capability: What the mechanism of each has to support.
        what: What it is needed for, for the message.

    Raises:
        ValueError: The model has no such layer.
        UnsupportedError: A mechanism lacks the capability.
    """
    found = {n: m for n, m in model.named_modules() if isinstance(m, MultiHeadAttention)}
    if not found:
        raise ValueError(f"{what}: {type(model).__name__} has no MultiHeadAttention layer")
    chosen = list(found) if names is None else list(names)
    for name in chosen:
        if name not in found:
            raise ValueError(f"{what}: no attention layer {name!r}{nearest(name, list(found))}")
        spec = found[name].spec
        if not spec.supports(capability):
            raise unsupported(spec.name, capability, f"{what} of layer {name!r}")
    return {name: found[name] for name in chosen}

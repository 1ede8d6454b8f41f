"""Giving a built model another attention mechanism."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from shared_attention.errors import UnsupportedError
from shared_attention.layers.multihead import MultiHeadAttention
from shared_attention.registry import find


def swap(model: nn.Module, mechanism: str, **options: Any) -> int:
    """Replace the mechanism of every `MultiHeadAttention` of a model, in place.

    Projections keep their weights. A recurrent mechanism has a query of its own: the projection
    of queries is then removed, and cannot be brought back. Parameters of the new mechanism are
    new, so optimisers that hold parameters of the model must be made afresh.

    Args:
        model: Any module; nothing of it changes where a layer cannot take the mechanism.
        mechanism: Name in the catalogue.
        **options: Options of the mechanism.

    Returns:
        The number of layers changed.

    Raises:
        ValueError: The mechanism or an option is unknown.
        UnsupportedError: A layer cannot take the mechanism.
    """
    spec = find(mechanism)
    layers = [m for m in model.modules() if isinstance(m, MultiHeadAttention)]
    built = []
    for layer in layers:
        if layer.spec.family == "recurrent" and spec.family != "recurrent":
            raise UnsupportedError(
                f"swap: {layer.spec.name} layers have no projection of queries for {mechanism}; "
                f"build the model with mechanism={mechanism!r}"
            )
        new = layer.build_mechanism(spec, options)
        weight = layer.project_in.weight
        built.append(new.to(device=weight.device, dtype=weight.dtype).train(layer.training))
    for layer, new in zip(layers, built, strict=True):
        dropped = layer.query_width if spec.family == "recurrent" else 0
        layer.spec = spec
        layer.mechanism = new
        if dropped:
            _drop_rows(layer.project_in, dropped)
    return len(layers)


def _drop_rows(layer: nn.Linear, count: int) -> None:
    layer.weight = _tail(layer.weight, count)
    if layer.bias is not None:
        layer.bias = _tail(layer.bias, count)
    layer.out_features -= count


def _tail(parameter: Tensor, count: int) -> nn.Parameter:
    return nn.Parameter(parameter.detach()[count:].clone(), requires_grad=parameter.requires_grad)

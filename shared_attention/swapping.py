"""Giving a built model another attention mechanism."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from shared_attention.errors import UnsupportedError, unsupported
from shared_attention.layers.multihead import MultiHeadAttention
from shared_attention.layers.swapped import SwappedAttention
from shared_attention.registry import find
from shared_attention.spec import MechanismSpec

Change = Callable[[], None]
"""What remains to be done to one layer after everything that can fail."""


def swap(model: nn.Module, mechanism: str, **options: Any) -> int:
    """Replace the attention mechanism of every layer of a model, in place.

    Layers are the core's `MultiHeadAttention`, `torch.nn.MultiheadAttention` (alone, or in
    `nn.TransformerEncoder`, `nn.TransformerDecoder` or any other model, torchvision's vision
    transformers for one), which become `SwappedAttention`, and those of models of the library
    transformers, through `shared_attention.adapters.transformers`.

    Projections keep their weights. A recurrent mechanism has a query of its own: the projection
    of queries of the core's layers is then removed, and cannot be brought back. Parameters of
    the new mechanism are new, so optimisers that hold parameters of the model must be made
    afresh. To swap some layers only, pass those: `swap(layer.self_attn, ...)`.

    Args:
        model: Any module; nothing of it changes where a layer cannot take the mechanism.
        mechanism: Name in the catalogue.
        **options: Options of the mechanism.

    Returns:
        The number of layers changed.

    Raises:
        ValueError: The mechanism or an option is unknown.
        UnsupportedError: A layer cannot take the mechanism; every such layer is named with the
            reason.
    """
    spec = find(mechanism)
    spec.resolve(options)
    changes: list[Change] = []
    refused: dict[str, list[str]] = {}
    for name, layer, prepare in _layers(model):
        try:
            changes.append(prepare(spec, options))
        except UnsupportedError as error:
            refused.setdefault(str(error), []).append(name or type(layer).__name__)
    if refused:
        reasons = (f"{_some(names)}: {reason}" for reason, names in refused.items())
        raise UnsupportedError("swap: nothing was changed; " + "\n".join(reasons))
    for change in changes:
        change()
    return len(changes)


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Module, Callable[..., Change]]]:
    """Find every layer, with its name and `prepare(spec, options) -> Change`."""
    decoders = [m for m in model.modules() if isinstance(m, nn.TransformerDecoderLayer)]
    across = {id(decoder.multihead_attn) for decoder in decoders}
    encoders = [m for m in model.modules() if isinstance(m, nn.TransformerEncoder)]
    for name, layer in model.named_modules():
        if isinstance(layer, MultiHeadAttention):
            yield name, layer, partial(_prepare_own, layer)
        elif isinstance(layer, nn.MultiheadAttention):
            holders = [e for e in encoders if any(m is layer for m in e.modules())]
            crossing = id(layer) in across
            yield name, layer, partial(_prepare_torch, name, layer, crossing, holders)
    if "transformers.modeling_utils" in sys.modules:
        from shared_attention.adapters.transformers import attention_layers

        yield from attention_layers(model)


def _prepare_own(
    layer: MultiHeadAttention, spec: MechanismSpec, options: Mapping[str, Any]
) -> Change:
    if layer.spec.family == "recurrent" and spec.family != "recurrent":
        raise UnsupportedError(
            f"{layer.spec.name} layers have no projection of queries for {spec.name}; "
            f"build the model with mechanism={spec.name!r}"
        )
    new = _placed(layer.build_mechanism(spec, options), layer, layer.project_in.weight)

    def change() -> None:
        dropped = layer.query_width if spec.family == "recurrent" else 0
        layer.spec = spec
        layer.mechanism = new
        if dropped:
            _drop_rows(layer.project_in, dropped)

    return change


def _prepare_torch(
    name: str,
    layer: nn.MultiheadAttention,
    crossing: bool,
    holders: list[nn.TransformerEncoder],
    spec: MechanismSpec,
    options: Mapping[str, Any],
) -> Change:
    if type(layer) not in (nn.MultiheadAttention, SwappedAttention):
        raise UnsupportedError(
            f"it is a {type(layer).__name__}, which may compute attention its own way; "
            "only nn.MultiheadAttention itself is swapped"
        )
    if spec.family != "attention":
        why = "has a query of its own" if spec.family == "recurrent" else "takes no heads"
        raise UnsupportedError(
            f"{spec.name} is of family {spec.family} and {why}; "
            "nn.MultiheadAttention takes mechanisms of family attention"
        )
    if crossing and not spec.supports("cross"):
        raise unsupported(spec.name, "cross", "keys of another sequence (cross-attention)")
    if layer.bias_k is not None or layer.add_zero_attn:
        for capability in ("cross", "dense_mask"):
            if not spec.supports(capability):
                raise unsupported(
                    spec.name, capability, "the key that add_bias_kv or add_zero_attn appends"
                )
    told = crossing and any(option.name == "self_attention" for option in spec.options)
    settings = {"self_attention": False, **options} if told else options
    built = spec.build(
        num_heads=layer.num_heads, head_dim=layer.embed_dim // layer.num_heads, **settings
    )
    new = _placed(built, layer, layer.out_proj.weight)

    def change() -> None:
        layer.__class__ = SwappedAttention
        assert isinstance(layer, SwappedAttention)
        layer.spec, layer.mechanism, layer.place = spec, new, name
        # PyTorch's fused encoder layers read this, and would bypass `forward`.
        layer._qkv_same_embed_dim = False
        for holder in holders:
            holder.use_nested_tensor = False

    return change


def _placed(mechanism: nn.Module, layer: nn.Module, weight: Tensor) -> nn.Module:
    return mechanism.to(device=weight.device, dtype=weight.dtype).train(layer.training)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _drop_rows(layer: nn.Linear, count: int) -> None:
    layer.weight = _tail(layer.weight, count)
    if layer.bias is not None:
        layer.bias = _tail(layer.bias, count)
    layer.out_features -= count


def _tail(parameter: Tensor, count: int) -> nn.Parameter:
    return nn.Parameter(parameter.detach()[count:].clone(), requires_grad=parameter.requires_grad)

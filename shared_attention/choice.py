"""Which attention a model uses, checked when the model is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from shared_attention import masks
from shared_attention.errors import UnsupportedError
from shared_attention.layers.multihead import MultiHeadAttention
from shared_attention.masks import Mask
from shared_attention.registry import catalogue
from shared_attention.spec import MechanismSpec

_WHY = {
    "causal": "its decoder must not see later steps",
    "cross": "its decoder reads the encoder",
    "key_padding": "padded steps must not be attended to",
}


@dataclass(frozen=True)
class AttentionChoice:
    """A mechanism of the core with its options, on behalf of one model."""

    model: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def build(
        self,
        d_model: int,
        num_heads: int,
        *,
        across: bool = False,
        layer: type[MultiHeadAttention] = MultiHeadAttention,
    ) -> MultiHeadAttention:
        """Return a multi-head layer with this mechanism.

        Args:
            d_model: width.
            num_heads: heads.
            across: whether the layer attends to another sequence, which may have the length of
                its own; mechanisms that treat padded keys as padded queries are told.
            layer: class of the layer, built as `MultiHeadAttention` is.
        """
        told = any(option.name == "self_attention" for option in catalogue()[self.name].options)
        options = {"self_attention": not across} if told else {}
        return layer(
            d_model,
            num_heads,
            mechanism=self.name,
            mechanism_options={**options, **self.options},
        )

    def padding(self, valid: Tensor | None) -> Mask | None:
        """Return the mask of the keys `valid` `[B, L]`, or None where every step is valid.

        A compiled or exported program must not depend on the values, so it has the mask always.
        Mechanisms that have a causal form only get it: each step sees those before it.

        Raises:
            UnsupportedError: A step is padded and the mechanism cannot leave keys out.
        """
        spec = catalogue()[self.name]
        causal = spec.family == "attention" and is_ordered(spec)
        if valid is None or (not torch.compiler.is_compiling() and bool(valid.all())):
            return masks.causal() if causal else None
        self.require("key_padding")
        return masks.causal() & masks.keys(valid) if causal else masks.keys(valid)

    def require(self, *capabilities: str) -> None:
        """Refuse the mechanism where it lacks one of `capabilities`.

        Raises:
            UnsupportedError: Names the capability and the mechanisms that have it.
        """
        for capability in capabilities:
            if not catalogue()[self.name].supports(capability):
                able = [n for n, s in _attention_specs().items() if s.supports(capability)]
                raise UnsupportedError(
                    f"{self.model} cannot use attention {self.name!r} here: {_WHY[capability]}, "
                    f"and {self.name!r} does not support {capability}; "
                    f"choose one of {', '.join(able)}"
                )

    def require_unordered(self) -> None:
        """Refuse mechanisms that are always causal, where tokens have no order.

        Raises:
            UnsupportedError: Names the mechanisms that see all tokens alike.
        """
        if is_ordered(catalogue()[self.name]):
            able = [name for name, spec in _attention_specs().items() if not is_ordered(spec)]
            raise UnsupportedError(
                f"{self.model} cannot use attention {self.name!r} here: its tokens have no order, "
                f"as voxels or variables, and {self.name!r} is always causal; "
                f"choose one of {', '.join(able)}"
            )


def is_ordered(spec: MechanismSpec) -> bool:
    """Say whether a mechanism sees earlier tokens only, whatever the mask."""
    return spec.family == "recurrent" or spec.capabilities.causal == "always"


def choose_attention(
    model: str,
    attention: str | None,
    options: Mapping[str, Any] | None,
    *,
    default: str,
    default_options: Mapping[str, Any] | None = None,
    needs: tuple[str, ...] = (),
) -> AttentionChoice:
    """Return the mechanism asked for, or the paper's where `attention` is None.

    Args:
        model: name of the model, for messages.
        attention: name in the catalogue, or None.
        options: options of the mechanism; laid over the paper's where the mechanism is the paper's.
        default: the paper's mechanism.
        default_options: the paper's options of it.
        needs: capabilities the model cannot do without.

    Raises:
        UnsupportedError: The mechanism is unknown, of another family or lacks a capability.
    """
    name = default if attention is None else attention
    specs = _attention_specs()
    if name not in specs:
        family = catalogue()[name].family if name in catalogue() else None
        found = f"is of family {family!r}" if family else "is not in the catalogue"
        raise UnsupportedError(
            f"{model} cannot use attention {name!r}: it {found}; choose one of {', '.join(specs)}"
        )
    paper = dict(default_options or {}) if name == default else {}
    choice = AttentionChoice(model, name, paper | dict(options or {}))
    choice.require(*needs)
    return choice


def _attention_specs() -> dict[str, Any]:
    families = ("attention", "recurrent")
    return {name: spec for name, spec in catalogue().items() if spec.family in families}

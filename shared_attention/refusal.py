"""Refusing what a mechanism cannot honour, so that nothing is ever dropped."""

from __future__ import annotations

from torch import Tensor

from shared_attention.errors import UnsupportedError, unsupported
from shared_attention.inputs import Inputs, check_inputs
from shared_attention.masks import Mask, Parts
from shared_attention.spec import MechanismSpec


def accept(
    spec: MechanismSpec,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Mask | None = None,
    bias: Tensor | None = None,
) -> Parts:
    """Check a call of a mechanism and return its mask taken apart.

    Mechanism functions call this first, so that they refuse the same when called directly.

    Raises:
        ValueError: The tensors do not fit together.
        UnsupportedError: The call needs a capability that `spec` lacks.
    """
    inputs = check_inputs(q, k, v, mask, bias)
    refuse_inputs(spec, inputs)
    return inputs.parts


def refuse_parts(spec: MechanismSpec, parts: Parts) -> None:
    """Raise UnsupportedError where a part of a mask needs a capability that `spec` lacks."""
    if spec.capabilities.causal == "always" and spec.family == "attention" and not parts.causal:
        raise UnsupportedError(
            f"{spec.name} has a causal form only: give mask=masks.causal(), "
            "with & masks.keys(valid) where there is padding"
        )
    if spec.supports("dense_mask"):
        return
    if parts.rest is not None:
        raise unsupported(spec.name, "dense_mask", f"a {_name(parts.rest)} mask")
    if parts.causal and not spec.supports("causal"):
        raise unsupported(spec.name, "causal", "a causal mask")
    if parts.keys is not None and not spec.supports("key_padding"):
        raise unsupported(spec.name, "key_padding", "a key padding mask")
    if parts.window is not None and not spec.supports("window"):
        raise unsupported(spec.name, "window", "a window mask")


def refuse_inputs(
    spec: MechanismSpec, inputs: Inputs, *, scale: float | None = None, generator: object = None
) -> None:
    """Raise UnsupportedError where these inputs need a capability that `spec` lacks."""
    if inputs.mask is not None or spec.capabilities.causal == "always":
        refuse_parts(spec, inputs.parts)
    if inputs.bias is not None:
        _need(spec, "bias", "an additive bias")
        if inputs.bias.requires_grad:
            _need(spec, "bias_grad", "a bias that requires gradients")
    _, heads, length, _ = inputs.q.shape
    _, key_heads, count, key_width = inputs.k.shape
    _, value_heads, _, value_width = inputs.v.shape
    if length != count:
        _need(spec, "cross", f"{length} queries on {count} keys")
    if key_heads != heads or value_heads != heads:
        _need(spec, "grouped_heads", f"{heads} query heads on {key_heads} key heads")
    if key_width != value_width:
        _need(spec, "value_dim", f"values of width {value_width} for keys of width {key_width}")
    if scale is not None:
        _need(spec, "scale", "a score scale")
    if generator is not None:
        _need(spec, "stochastic", "a generator")


def refuse_needs(spec: MechanismSpec, need: frozenset[str]) -> None:
    """Raise where results were asked for that the mechanism cannot give."""
    known = ("weights", "lse", "state", "aux")
    for name in sorted(need):
        if name not in known:
            raise ValueError(f"attention_output: need got {name!r}, expected {', '.join(known)}")
        _need(spec, name, f"need={name!r}")


def _need(spec: MechanismSpec, capability: str, what: str) -> None:
    if not spec.supports(capability):
        raise unsupported(spec.name, capability, what)


def _name(mask: Mask) -> str:
    return {"And": "composed", "Or": "composed"}.get(
        type(mask).__name__, type(mask).__name__.lower()
    )

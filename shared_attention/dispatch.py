"""One call for every mechanism: check, refuse, choose a backend, run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from shared_attention.errors import UnsupportedError, nearest
from shared_attention.inputs import Inputs, check_inputs
from shared_attention.masks import Mask, keys, split
from shared_attention.refusal import refuse_inputs, refuse_needs
from shared_attention.registry import find
from shared_attention.result import AttentionOutput
from shared_attention.spec import Backend, MechanismSpec


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mechanism: str = "softmax",
    mask: Mask | None = None,
    bias: Tensor | None = None,
    *,
    scale: float | None = None,
    generator: torch.Generator | None = None,
    backend: str = "auto",
    **options: Any,
) -> Tensor:
    """Attend with any mechanism of the catalogue that has no parameters.

    Args:
        q: `[B, H, L, Dk]`.
        k: `[B, Hk, S, Dk]`; Hk divides H where the mechanism allows grouped heads.
        v: `[B, Hv, S, Dv]`.
        mechanism: Name in the catalogue.
        mask: From `shared_attention.masks`; True = may attend.
        bias: Added to the scores, broadcastable to `[B, H, L, S]`; may require gradients.
        scale: Score scale; the mechanism's own default where None.
        generator: Source of randomness of stochastic mechanisms.
        backend: Name of a backend, which is then used or refused, or "auto".
        **options: Options of the mechanism.

    Returns:
        `[B, H, L, Dv]`; zero for queries that see no key.

    Raises:
        ValueError: The tensors do not fit together, or an option is unknown or mistyped.
        UnsupportedError: The mechanism or the backend cannot honour the request.
    """
    spec = functional(mechanism)
    inputs = check_inputs(q, k, v, mask, bias)
    refuse_inputs(spec, inputs, scale=scale, generator=generator)
    return run(spec, inputs, spec.resolve(options), scale, generator, backend)


def attention_output(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mechanism: str = "softmax",
    mask: Mask | None = None,
    bias: Tensor | None = None,
    *,
    need: Iterable[str] = (),
    scale: float | None = None,
    generator: torch.Generator | None = None,
    backend: str = "auto",
    **options: Any,
) -> AttentionOutput:
    """Attend, and return more than the output.

    Args:
        q: As for `attention`.
        k: As for `attention`.
        v: As for `attention`.
        mechanism: As for `attention`.
        mask: As for `attention`; "state" needs `masks.causal()`, with or without `masks.keys`.
        bias: As for `attention`.
        need: Any of "weights", "lse", "state" and "aux".
        scale: As for `attention`.
        generator: As for `attention`.
        backend: As for `attention`. The weights and the state come from code of their own.
        **options: Options of the mechanism.

    Raises:
        ValueError: As for `attention`.
        UnsupportedError: As for `attention`, or the mechanism cannot give what is needed.
    """
    wanted = frozenset(need)
    spec = functional(mechanism)
    refuse_needs(spec, wanted)
    inputs = check_inputs(q, k, v, mask, bias)
    refuse_inputs(spec, inputs, scale=scale, generator=generator)
    arguments = _arguments(spec, inputs, scale, generator, spec.resolve(options))
    chosen = choose_backend(spec, inputs, backend)
    found: dict[str, Any] = {}
    if spec.rich is not None and wanted - {"state"}:
        if backend not in ("auto", "eager"):
            raise UnsupportedError(
                f"{spec.name}: backend {backend!r} gives the output only; "
                f"use backend='eager' or 'auto' for {', '.join(sorted(wanted))}"
            )
        rich = spec.rich(q, k, v, need=wanted - {"state"}, **arguments)
        found = {name: getattr(rich, name) for name in ("out", "weights", "lse", "aux")}
        found["backend"] = "eager"
    elif "weights" in wanted:
        from shared_attention.explain import attention_matrix

        weights = attention_matrix(
            mechanism, q, k, mask=mask, bias=bias, scale=scale, generator=generator, **options
        )
        found["weights"] = weights
    if "out" not in found:
        found["out"] = chosen.run(q, k, v, **arguments)
        found["backend"] = chosen.name
    if "state" in wanted:
        found["state"] = _final_state(spec, inputs, arguments)
    return AttentionOutput(**found)


@dataclass(frozen=True)
class DispatchReport:
    """Which backends can serve a call and which one "auto" takes."""

    mechanism: str
    chosen: str | None
    reasons: dict[str, tuple[str, ...]]
    """Why each backend cannot serve the call; empty where it can."""

    def __str__(self) -> str:
        lines = [f"{self.mechanism}: auto takes {self.chosen or 'none'}"]
        for name, why_not in self.reasons.items():
            lines.append(f"  {name:<8} {'; '.join(why_not) or 'can'}")
        return "\n".join(lines)


def explain_dispatch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mechanism: str = "softmax",
    mask: Mask | None = None,
    bias: Tensor | None = None,
) -> DispatchReport:
    """Say which backends can serve a call and why the others cannot; runs nothing.

    Raises:
        UnsupportedError: The mechanism itself cannot honour the request.
    """
    spec = functional(mechanism)
    inputs = check_inputs(q, k, v, mask, bias)
    refuse_inputs(spec, inputs)
    reasons = {b.name: tuple(b.why_not(inputs)) for b in _backends(spec)}
    able = [name for name, why_not in reasons.items() if not why_not]
    return DispatchReport(mechanism, able[0] if able else None, reasons)


def choose_backend(spec: MechanismSpec, inputs: Inputs, name: str) -> Backend:
    """Return the backend of that name, or for "auto" the first that can serve the inputs.

    Raises:
        ValueError: There is no backend of that name.
        UnsupportedError: The named backend, or every one, cannot serve the inputs.
    """
    refused = []
    for backend in _backends(spec):
        if name not in ("auto", backend.name):
            continue
        reasons = backend.why_not(inputs)
        if not reasons:
            return backend
        refused.append(f"{backend.name}: {', '.join(reasons)}")
    if refused:
        raise UnsupportedError(f"{spec.name} cannot serve this call; {'; '.join(refused)}")
    raise ValueError(f"{spec.name} has no backend {name!r}{nearest(name, list(spec.backends))}")


def _backends(spec: MechanismSpec) -> tuple[Backend, ...]:
    if spec.implementations:
        return spec.implementations
    assert spec.function is not None
    return (Backend("eager", spec.function),)


def run(
    spec: MechanismSpec,
    inputs: Inputs,
    options: Mapping[str, Any],
    scale: float | None = None,
    generator: torch.Generator | None = None,
    backend: str = "auto",
) -> Tensor:
    """Run a mechanism on inputs that were checked and not refused.

    Args:
        spec: A mechanism without parameters.
        inputs: From `check_inputs`.
        options: Every option, from `spec.resolve`.
        scale: As for `attention`.
        generator: As for `attention`.
        backend: As for `attention`.

    Returns:
        `[B, H, L, Dv]`.
    """
    arguments = _arguments(spec, inputs, scale, generator, options)
    return choose_backend(spec, inputs, backend).run(inputs.q, inputs.k, inputs.v, **arguments)


def functional(mechanism: str) -> MechanismSpec:
    """Return the spec of a mechanism without parameters.

    Raises:
        ValueError: There is no mechanism of that name.
        UnsupportedError: It has parameters.
    """
    spec = find(mechanism)
    if spec.function is None:
        raise UnsupportedError(
            f"{mechanism} has parameters, so attention() cannot serve it; build the module: "
            f"catalogue()[{mechanism!r}].build(num_heads=..., head_dim=...)"
        )
    return spec


def _arguments(
    spec: MechanismSpec,
    inputs: Inputs,
    scale: float | None,
    generator: torch.Generator | None,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    can = spec.capabilities
    arguments: dict[str, Any] = {"mask": inputs.mask, **options}
    if can.bias:
        arguments["bias"] = inputs.bias
    if can.scale:
        arguments["scale"] = scale
    if can.stochastic:
        arguments["generator"] = generator
    return arguments


def _final_state(spec: MechanismSpec, inputs: Inputs, arguments: dict[str, Any]) -> Any:
    parts = split(inputs.mask)
    if not parts.causal or parts.window is not None or parts.rest is not None:
        raise UnsupportedError(
            f"{spec.name}: need='state' continues causal attention; "
            "use mask=masks.causal(), with masks.keys(valid) where there is padding"
        )
    if inputs.bias is not None:
        raise UnsupportedError(f"{spec.name}: need='state' does not take a bias")
    assert spec.init_state is not None and spec.prefill is not None
    q, k, v = inputs.q, inputs.k, inputs.v
    rest = {name: arguments[name] for name in arguments if name not in ("mask", "bias")}
    options = {name: rest[name] for name in rest if name not in ("scale", "generator")}
    state = spec.init_state(
        q.shape[0], k.shape[1], k.shape[3], v.shape[3], dtype=q.dtype, device=q.device, **options
    )
    mask = None if parts.keys is None else keys(parts.keys)
    return spec.prefill(q, k, v, state, mask=mask, **rest)[1]

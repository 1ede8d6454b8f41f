"""The exact effective attention matrix of a mechanism that is linear in its values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from shared_attention.dispatch import attention
from shared_attention.errors import UnsupportedError, unsupported
from shared_attention.explain.randomness import random_state, restore
from shared_attention.masks import Mask
from shared_attention.registry import catalogue, find
from shared_attention.spec import MechanismSpec


def attention_matrix(
    mechanism: str | nn.Module,
    q: Tensor | None,
    k: Tensor,
    *,
    mask: Mask | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
    generator: torch.Generator | None = None,
    **options: Any,
) -> Tensor:
    """Return the matrix A with out = A v, for any mechanism linear in v.

    It is exact: the mechanism is applied to the identity in place of v, some columns at a time,
    with the same random numbers for each. A module that is not of the catalogue is tried with
    the keys as values as well, so that one that is not linear in v is refused.

    Args:
        mechanism: Name in the catalogue, or a module called `module(q, k, v, mask, bias)`.
        q: `[B, H, L, D]`; None for modules of family recurrent, called `module(k, v, mask)`.
        k: `[B, Hk, S, D]`.
        mask: As for `attention`.
        bias: As for `attention`.
        scale: As for `attention`.
        generator: As for `attention`.
        **options: Options of the mechanism; of a module, further arguments of its call.

    Returns:
        `[B, H, L, S]`; differentiable.

    Raises:
        UnsupportedError: The mechanism is not linear in v, or takes no q, k and v; operators on
            grids and graphs have `operator_matrix`.
    """
    spec = find(mechanism) if isinstance(mechanism, str) else spec_of(mechanism)
    if spec is not None:
        refuse_nonlinear(spec, "an effective attention matrix")
    arguments: dict[str, Any] = {"mask": mask, **options}
    if isinstance(mechanism, str):
        arguments |= {"mechanism": mechanism, "scale": scale, "generator": generator}
    call: Callable[..., Tensor] = attention if isinstance(mechanism, str) else mechanism
    if q is not None:
        arguments["bias"] = bias
    inputs = (k,) if q is None else (q, k)
    batch, heads, count, width = k.shape
    identity = torch.eye(count, -(-count // width) * width, dtype=k.dtype, device=k.device)
    columns = []
    random = random_state(k.device, generator)
    for part in identity.split(width, dim=1):
        restore(random, k.device, generator)
        columns.append(call(*inputs, part.expand(batch, heads, -1, -1), **arguments))
    matrix = torch.cat(columns, dim=-1)[..., :count]
    if spec is None:
        restore(random, k.device, generator)
        _check_linear(mechanism, matrix, k, call(*inputs, k, **arguments))
    return matrix


def spec_of(module: nn.Module) -> MechanismSpec | None:
    """Return the catalogue's spec of a built mechanism; None where it is not of the catalogue."""
    spec = getattr(module, "spec", None)
    if isinstance(spec, MechanismSpec):
        return spec
    return next((s for s in catalogue().values() if s.module is type(module)), None)


def refuse_nonlinear(spec: MechanismSpec, what: str) -> None:
    """Raise UnsupportedError where `spec` has no matrix A with out = A v."""
    if spec.family not in ("attention", "recurrent"):
        raise UnsupportedError(
            f"{spec.name} cannot honour {what}: it is of family {spec.family} and takes no q, k "
            "and v; shared_attention.explain.operator_matrix has the matrices of such operators"
        )
    if not spec.supports("linear_in_v"):
        raise unsupported(spec.name, "linear_in_v", what)


def _check_linear(mechanism: object, matrix: Tensor, v: Tensor, out: Tensor) -> None:
    expected = matrix.detach() @ v.detach().repeat_interleave(matrix.shape[1] // v.shape[1], 1)
    error = (out.detach() - expected).abs().amax()
    if not error <= torch.finfo(v.dtype).eps ** 0.5 * (1 + expected.abs().amax()):
        raise UnsupportedError(
            f"{type(mechanism).__name__} cannot honour an effective attention matrix: it is not "
            f"linear in v, whose output a matrix misses by {float(error):.1e}"
        )

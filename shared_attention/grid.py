"""The input of mixers and spatial operators, `[B, *grid, C]`, checked once."""

from __future__ import annotations

from torch import Tensor

from shared_attention.masks import Mask, split
from shared_attention.refusal import refuse_parts
from shared_attention.spec import MechanismSpec


def accept_grid(
    spec: MechanismSpec,
    x: Tensor,
    channels: int,
    mask: Mask | None = None,
    *,
    dims: tuple[int, ...] | None = None,
    name: str = "x",
) -> Tensor | None:
    """Check a call of a mixer or spatial operator and return which positions are valid.

    Args:
        spec: The operator.
        x: `[B, *grid, C]`.
        channels: C.
        mask: `masks.keys(valid)`, valid `[B, S]` with S the positions of the grid in order.
        dims: Numbers of grid dimensions that are taken; those of `spec` by default.
        name: How the error calls `x`.

    Returns:
        bool `[B, *grid, 1]`, or None where there is no padding.

    Raises:
        ValueError: `x` or the mask has another shape or type.
        UnsupportedError: The mask needs a capability that `spec` lacks.
    """
    dims = spec.dims if dims is None else dims
    if x.dim() - 2 not in dims or x.shape[-1] != channels:
        grids = " or ".join(str(n) for n in dims)
        raise ValueError(
            f"{spec.name}: {name} has shape {list(x.shape)}, "
            f"expected [batch, *grid, {channels}] with {grids} grid dimensions"
        )
    if not x.is_floating_point():
        raise ValueError(f"{spec.name}: {name} has dtype {x.dtype}, expected a float type")
    if mask is None:
        return None
    if not isinstance(mask, Mask):
        raise ValueError(
            f"{spec.name}: mask is a {type(mask).__name__}; "
            "say which positions are real with masks.keys(valid)"
        )
    parts = split(mask)
    refuse_parts(spec, parts)
    positions = x.shape[1:-1].numel()
    mask.check(x.shape[0], 1, positions, positions)
    return None if parts.keys is None else parts.keys.reshape(*x.shape[:-1], 1)


def blank(x: Tensor, valid: Tensor | None) -> Tensor:
    """Set the positions that are not valid to zero, whatever they hold."""
    return x if valid is None else x.masked_fill(~valid, 0)


def valid_positions(
    spec: MechanismSpec, x: Tensor, channels: int, mask: Mask | None
) -> Tensor | None:
    """As `accept_grid` for sequences `[B, L, C]`; returns bool `[B, L]` or None."""
    valid = accept_grid(spec, x, channels, mask, dims=(1,))
    return None if valid is None else valid[..., 0]

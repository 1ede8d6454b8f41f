"""What operators on x are called with: grids, pyramids and graphs of a number of positions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from shared_attention import MechanismSpec
from shared_runtime.errors import UsageError

OFFSETS = 17
"""Width of the band of pairs that `plus_window` works in."""
DEPTHS = 16
EDGES = 8
"""Edges into each node of a graph."""


def operator(
    spec: MechanismSpec, batch: int, length: int, channels: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options to build an operator with, and the arguments to call it with.

    Grids are one line or as nearly square as `length` allows. Operators on pyramids read one
    whose finest level has `length` positions, from as many queries; graphs have `length` nodes.

    Raises:
        UsageError: The operator takes inputs that only its author knows.
    """
    options: dict[str, Any] = {"channels": channels}
    if spec.name in MAKERS:
        return options, MAKERS[spec.name](batch, length, channels)
    if spec.sample is not None:
        raise UsageError(f"{spec.name}: takes inputs of its own, which the benchmark cannot make")
    defaults = {option.name: option.default for option in spec.options}
    grid = grid_of(length, defaults.get("dims", spec.dims[0]))
    if "length" in defaults:
        options["length"] = max(grid)
    return options, {"x": torch.randn(batch, *grid, channels)}


def grid_of(length: int, dims: int) -> tuple[int, ...]:
    """Return a grid of `length` positions with sides as equal as its divisors allow."""
    if dims == 1:
        return (length,)
    side = next(n for n in range(round(length ** (1 / dims) + 0.5), 0, -1) if length % n == 0)
    return (side, *grid_of(length // side, dims - 1))


def _two(batch: int, length: int, channels: int) -> dict[str, Any]:
    grid = grid_of(length, 2)
    return {name: torch.randn(batch, *grid, channels) for name in ("x", "skip")}


def _band(batch: int, length: int, channels: int) -> dict[str, Any]:
    return {"x": torch.randn(batch, math.ceil(length / OFFSETS), OFFSETS, channels)}


def _pyramid(batch: int, length: int, channels: int, dims: int = 2) -> dict[str, Any]:
    height, width = grid_of(length, 2)
    shapes = tuple((max(1, height >> level), max(1, width >> level)) for level in range(4))
    positions = sum(h * w for h, w in shapes)
    made: dict[str, Any] = {
        "x": torch.randn(batch, length, channels),
        "reference_points": torch.rand(batch, length, len(shapes), dims),
        "value": torch.randn(batch, positions, channels),
        "spatial_shapes": shapes,
    }
    if dims == 3:
        made["depth"] = torch.rand(batch, positions, DEPTHS)
    return made


def _deep(batch: int, length: int, channels: int) -> dict[str, Any]:
    return _pyramid(batch, length, channels, 3)


def _graph(batch: int, length: int, channels: int) -> dict[str, Any]:
    nodes = batch * length
    targets = torch.arange(nodes).repeat_interleave(EDGES)
    sources = torch.randint(length, targets.shape) + targets // length * length
    return {"x": torch.randn(nodes, channels), "edge_index": torch.stack([sources, targets])}


MAKERS: Mapping[str, Callable[[int, int, int], dict[str, Any]]] = {
    "cross_contextual": _two,
    "plus_window": _band,
    "deformable": _pyramid,
    "deformable_3d": _deep,
    "graph_attention": _graph,
}


def placed(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Move a tensor, those of floating point to `dtype`; leave other values."""
    if not isinstance(value, Tensor):
        return value
    return value.to(device, dtype) if value.is_floating_point() else value.to(device)

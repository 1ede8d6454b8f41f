"""Feature grids inside a model, found by running it once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from shared_runtime.errors import UsageError

_MOST_UNEVEN = 16.0


@dataclass(frozen=True)
class Layer:
    """A module whose output is a grid of features."""

    name: str
    channels: int
    grid: tuple[int, ...]


def find_layers(model: nn.Module, image: Tensor, names: Sequence[str] = ()) -> list[Layer]:
    """Return the layers to explain a model with, the finest first.

    Without names: the last block of each resolution coarser than the image, at most three, the
    coarsest ones; of the image's own where there is no other. The model's own output is none, and
    neither is what does not depend on the image, such as positions.

    Args:
        model: any network.
        image: `[1, C, *grid]`.
        names: of modules, as in `named_modules`.

    Raises:
        UsageError: a named module gives no grid of features, or the model has none at all.
    """
    found = {layer.name: layer for layer in _run(model, image)}
    for name in names:
        if name not in found:
            some = ", ".join(list(found)[-8:])
            raise UsageError(f"tame.layers: {name!r} gives no grid of features; some do: {some}")
    if names:
        chosen = [found[name] for name in names]
    else:
        by_grid = {layer.grid: layer for layer in found.values()}
        whole = tuple(image.shape[2:])
        coarser = [layer for grid, layer in by_grid.items() if grid != whole]
        chosen = sorted(coarser or by_grid.values(), key=lambda each: math.prod(each.grid))[:3]
    if not chosen:
        raise UsageError("the model has no layer with a grid of features; name one: tame.layers")
    return sorted(chosen, key=lambda each: -math.prod(each.grid))


@contextmanager
def tapped(model: nn.Module, layers: Sequence[Layer]) -> Iterator[Mapping[str, Tensor]]:
    """Record the features `[B, C, *grid]` of `layers` as the model runs, by name."""
    maps: dict[str, Tensor] = {}
    size: list[tuple[int, ...]] = []

    def record(name: str, output: object) -> None:
        features = as_grid(output, size[0])
        if features is not None:
            maps[name] = features

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        size[:] = [tuple(inputs[0].shape[2:])]

    modules = dict(model.named_modules())
    handles = [model.register_forward_pre_hook(note)]
    handles += [
        modules[layer.name].register_forward_hook(
            lambda module, inputs, output, name=layer.name: record(name, output)
        )
        for layer in layers
    ]
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()


def as_grid(output: object, size: Sequence[int]) -> Tensor | None:
    """Return an output as features `[B, C, *grid]`, None where it is none.

    Grids with channels first and with channels last are told apart by which shrinks the image more
    evenly. Tokens `[B, L, C]` are of a grid with the same step along every axis; a class token
    before the others is left out.
    """
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return None
    if output.dim() == len(size) + 2:
        first, last = _unevenness(output.shape[2:], size), _unevenness(output.shape[1:-1], size)
        if min(first, last) > _MOST_UNEVEN or math.prod(output.shape[2:]) < 2:
            return None
        return output if first <= last else output.movedim(-1, 1)
    if output.dim() != 3:
        return None
    for step in range(1, min(size) + 1):
        grid = [-(-length // step) for length in size]
        count = math.prod(grid)
        if output.shape[1] in (count, count + 1) and count > 1:
            return output[:, -count:].transpose(1, 2).unflatten(2, grid)
    return None


def _unevenness(grid: Sequence[int], size: Sequence[int]) -> float:
    """Return how much more an image was shrunk along one axis than another, 1 for evenly.

    Infinite where the grid is longer than the image along an axis, or a single place.
    """
    if any(g < 1 or g > s for g, s in zip(grid, size, strict=True)) or math.prod(grid) < 2:
        return math.inf
    steps = [s / g for g, s in zip(grid, size, strict=True)]
    return max(steps) / min(steps)


def _run(model: nn.Module, image: Tensor) -> list[Layer]:
    """Return every layer with a grid of features of the image in the order they finish."""
    seen: dict[str, Tensor] = {}
    size = tuple(image.shape[2:])
    handles = [
        module.register_forward_hook(
            lambda module, inputs, output, name=name: seen.update({name: output})
        )
        for name, module in model.named_modules()
        if name
    ]
    try:
        with torch.no_grad():
            last = model(torch.cat([image, image.flip(-1)]))
    finally:
        for handle in handles:
            handle.remove()
    layers = []
    for name, output in seen.items():
        features = as_grid(output, size)
        if features is None or len(features) != 2 or torch.equal(features[0], features[1]):
            continue
        if not (isinstance(last, Tensor) and features.shape == last.shape):
            layers.append(Layer(name, features.shape[1], tuple(features.shape[2:])))
    return layers

"""Which places of an image the attention layers of a model relate, whatever their kind."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from domains.medical.tame.features import as_grid
from shared_attention import explain
from shared_attention.layers.multihead import MultiHeadAttention
from shared_attention.registry import catalogue

_MOST_TOKENS = 2048
"""Places up to which a whole attention matrix is computed."""
_SIGNS = 4


@dataclass(frozen=True)
class AttentionMaps:
    """What some places of an image draw on, in one layer.

    Args:
        layer: name of the module.
        exact: whether these are attention weights, mean over heads; else sensitivities.
        maps: `[Q, *grid]`, each adding up to one, at the layer's grid.
        heads: `entropy` and `distance` `[H]` of each head; empty where not exact.
    """

    layer: str
    exact: bool
    maps: Tensor
    heads: Mapping[str, Tensor]


def attention_maps(
    model: nn.Module, image: Tensor, places: Sequence[Sequence[int]], *, most: int = 5
) -> list[AttentionMaps]:
    """Return what `places` draw on in the attention layers of a model, in the order they run.

    Multi-head layers of the core over a grid of at most 2048 places give their effective attention
    matrix. Of every other layer with attention (windows, positions, gates, MONAI's), the size of
    the derivative of its output at a place by its input at every other is taken: what the place
    would change with, whether or not weights exist. A layer that runs within windows is taken with
    the blocks around it up to the first that has a whole grid. At most `most` layers, spread.

    Args:
        model: segmentation model, in evaluation mode.
        image: `[1, C, *grid]`.
        places: voxels of the image.
        most: layers.
    """
    size = tuple(image.shape[2:])
    found = _layers(model, image)
    if len(found) > most:
        found = [found[round(k * (len(found) - 1) / (most - 1))] for k in range(most)]
    maps = []
    for name in found:
        layer = model.get_submodule(name)
        exact = _exact(model, layer, name, image, places) if _small(layer) else None
        made = exact or _influence(model, layer, name, image, places)
        if made is not None:
            maps.append(made)
    return [each for each in maps if each.maps.dim() == len(size) + 1]


def has_attention(model: nn.Module) -> bool:
    """Say whether any part of a model is an attention layer."""
    return any(True for _ in _innermost(model))


def scaled_place(place: Sequence[int], size: Sequence[int], grid: Sequence[int]) -> tuple[int, ...]:
    """Return the place of a grid that holds voxel `place` of an image of `size`."""
    return tuple(
        min(g - 1, int((p + 0.5) * g / s)) for p, s, g in zip(place, size, grid, strict=True)
    )


def _innermost(model: nn.Module, name: str = "") -> Iterator[str]:
    """Yield the names of attention layers that have no other inside."""
    if isinstance(model, (MultiHeadAttention, *_spatial())):
        yield name
        return
    inner = [
        each
        for child, module in model.named_children()
        for each in _innermost(module, f"{name}.{child}" if name else child)
    ]
    yield from inner
    if not inner and name and "Attention" in type(model).__name__:
        yield name


def _spatial() -> Any:
    specs = catalogue().values()
    return tuple(spec.module for spec in specs if spec.family == "spatial" and spec.module)


def _layers(model: nn.Module, image: Tensor) -> list[str]:
    """Return the layers to look at: attention, or the smallest block around it with a grid."""
    size = tuple(image.shape[2:])
    candidates: dict[str, list[str]] = {}
    for name in _innermost(model):
        parts = name.split(".")
        candidates[name] = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    fits: dict[str, bool] = {}

    def note(name: str, inputs: tuple[Any, ...], output: object) -> None:
        entry = next((x for x in inputs if _grid(x, size) is not None), None)
        fits[name] = entry is not None and _grid(output, size) is not None

    modules = dict(model.named_modules())
    handles = [
        modules[name].register_forward_hook(
            lambda module, inputs, output, name=name: note(name, inputs, output)
        )
        for name in {each for names in candidates.values() for each in names}
    ]
    try:
        with torch.no_grad():
            model(image)
    finally:
        for handle in handles:
            handle.remove()
    chosen = (
        next((each for each in names if fits.get(each, False)), None)
        for names in candidates.values()
    )
    return list(dict.fromkeys(name for name in chosen if name is not None))


def _grid(value: object, size: Sequence[int]) -> Tensor | None:
    features = as_grid(value, size)
    return features if features is not None and len(features) == 1 else None


def _small(layer: nn.Module) -> bool:
    return isinstance(layer, MultiHeadAttention) and layer.spec.supports("linear_in_v")


def _exact(
    model: nn.Module, layer: nn.Module, name: str, image: Tensor, places: Sequence[Sequence[int]]
) -> AttentionMaps | None:
    """Return attention weights, or None where the layer has too many places or no square grid."""
    size = tuple(image.shape[2:])
    shapes: list[tuple[int, ...]] = []
    handle = layer.register_forward_hook(
        lambda module, inputs, output: shapes.append(tuple(inputs[-1].shape))
    )
    try:
        with torch.no_grad():
            model(image)
    finally:
        handle.remove()
    grid = _grid(torch.empty(shapes[0]), size) if shapes else None
    if grid is None or math.prod(grid.shape[2:]) != shapes[0][1]:
        return None
    if shapes[0][1] > _MOST_TOKENS:
        return None
    with torch.no_grad(), explain.capture(nn.ModuleList([layer])) as captured:
        model(image)
    weights = captured["0"].float()
    cells = grid.shape[2:]
    if weights.shape[-2:] != (math.prod(cells), math.prod(cells)):
        return None
    rows = [_flat(scaled_place(place, size, cells), cells) for place in places]
    mean = weights.abs().mean(1)[0, rows]
    statistics = explain.head_statistics({name: weights})[name]
    return AttentionMaps(name, True, _shares(mean).unflatten(1, list(cells)), statistics)


def _influence(
    model: nn.Module, layer: nn.Module, name: str, image: Tensor, places: Sequence[Sequence[int]]
) -> AttentionMaps | None:
    """Return root-mean-square derivatives of a layer's output at places by its input."""
    size = tuple(image.shape[2:])
    kept: dict[str, Tensor] = {}

    def cut(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if kept:
            return None
        at = next((n for n, x in enumerate(inputs) if _grid(x, size) is not None), None)
        if at is None:
            return None
        kept["in"] = inputs[at].detach().requires_grad_(True)
        return (*inputs[:at], kept["in"], *inputs[at + 1 :])

    handles = [
        layer.register_forward_pre_hook(cut),
        layer.register_forward_hook(
            lambda module, inputs, output: kept.setdefault("out", output) is None or None
        ),
    ]
    try:
        with torch.enable_grad():
            model(image)
    finally:
        for handle in handles:
            handle.remove()
    before, after = _grid(kept.get("in"), size), _grid(kept.get("out"), size)
    if before is None or after is None:
        return None
    random = torch.Generator().manual_seed(0)
    rows = []
    for place in places:
        at = scaled_place(place, size, after.shape[2:])
        values = after[0].flatten(1)[:, _flat(at, after.shape[2:])]
        total = torch.zeros(before.shape[2:])
        for _ in range(_SIGNS):
            sign = torch.randint(2, values.shape, generator=random).to(values) * 2 - 1
            (gradient,) = torch.autograd.grad((values * sign).sum(), kept["in"], retain_graph=True)
            whole = _grid(gradient, size)
            assert whole is not None
            total += whole[0].square().sum(0).cpu()
        rows.append(total.sqrt().flatten())
    shares = _shares(torch.stack(rows)).unflatten(1, list(before.shape[2:]))
    return AttentionMaps(name, False, shares, {})


def _shares(rows: Tensor) -> Tensor:
    return (rows / rows.sum(1, keepdim=True).clamp_min(1e-30)).cpu()


def _flat(place: Sequence[int], grid: Sequence[int]) -> int:
    flat = 0
    for at, length in zip(place, grid, strict=True):
        flat = flat * length + at
    return flat

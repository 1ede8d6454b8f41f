"""How a grid of any dimension is cut into windows, shifted or not, and put together again."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor


class Windows(NamedTuple):
    """A grid cut into windows; windows with the same mask stand beside each other."""

    tokens: Tensor
    """Position in the flattened grid of each token of each window, int64 `[W, n]`; -1 is
    padding."""
    places: Tensor
    """Position in the flattened `tokens` of each grid position, int64 `[N]`."""
    groups: tuple[tuple[int, Tensor | None], ...]
    """Number of windows and their mask, bool `[n, n]`, None where nothing is hidden."""
    window: tuple[int, ...]
    """Size of the windows: at most the grid's."""


def cut_windows(
    grid: Sequence[int], window: Sequence[int], shift: Sequence[int], device: torch.device
) -> Windows:
    """Cut a grid into windows that start at `shift`, wrapping round the end.

    The last window along an axis holds the rest of the grid, padding, and the first `shift`
    positions; its mask keeps the three apart. An axis no longer than the window is one window.
    """
    make = _cut if torch.compiler.is_compiling() else _remembered
    return make(tuple(grid), tuple(window), tuple(shift), device)


def _cut(
    grid: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...], device: torch.device
) -> Windows:
    axes = [_Axis.cut(*sizes) for sizes in zip(grid, window, shift, strict=True)]
    kinds = [sorted(set(axis.regions)) for axis in axes]
    tokens: list[list[int]] = []
    groups: list[tuple[int, Tensor | None]] = []
    for regions in product(*kinds):
        alike = [
            [at for at, own in zip(axis.positions, axis.regions, strict=True) if own == region]
            for axis, region in zip(axes, regions, strict=True)
        ]
        found = [_flat(positions, grid) for positions in product(*alike)]
        tokens += found
        groups.append((len(found), _mask(regions, device)))
    table = torch.tensor(tokens, device=device)
    real = (table.flatten() >= 0).nonzero().squeeze(1)
    places = torch.empty(math.prod(grid), dtype=torch.int64, device=device)
    places = places.scatter(0, table.flatten()[real], real)
    return Windows(table, places, tuple(groups), tuple(axis.window for axis in axes))


_remembered = functools.lru_cache(maxsize=64)(_cut)


class _Axis(NamedTuple):
    window: int
    positions: tuple[tuple[int, ...], ...]
    """Coordinates of each window; -1 is padding."""
    regions: tuple[tuple[int, ...], ...]
    """Of each window: 0 for what lies together, 1 for what wrapped round, -1 for padding."""

    @classmethod
    def cut(cls, size: int, window: int, shift: int) -> _Axis:
        window = min(window, size)
        count = -(-size // window)
        shift = shift % window if count > 1 else 0
        padded = count * window
        at = [[k * window + j + shift for j in range(window)] for k in range(count)]
        positions = tuple(tuple(p % padded if p % padded < size else -1 for p in w) for w in at)
        regions = tuple(
            tuple(-1 if p % padded >= size else int(p >= padded) for p in w) for w in at
        )
        return cls(window, positions, regions)


def _flat(positions: tuple[tuple[int, ...], ...], grid: tuple[int, ...]) -> list[int]:
    """Positions in the flattened grid of one window; -1 where any coordinate is padding."""
    flat = [0]
    for coordinates, size in zip(positions, grid, strict=True):
        flat = [-1 if -1 in (f, c) else f * size + c for f in flat for c in coordinates]
    return flat


def _mask(regions: tuple[tuple[int, ...], ...], device: torch.device) -> Tensor | None:
    """What may attend within a window; padding, whose rows nobody reads, sees all that is real."""
    token = list(product(*regions))
    if all(own == token[0] for own in token) and -1 not in token[0]:
        return None
    codes = torch.tensor(token, device=device)
    real = (codes >= 0).all(-1)
    together = (codes[:, None] == codes[None]).all(-1)
    return (together | ~real[:, None]) & real[None]

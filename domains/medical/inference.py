"""Sliding-window inference whose memory grows with a slab of the volume, not with the volume.

Windows are placed as MONAI's `sliding_window_inference` places them and blended with the same
Gaussian (standard deviation an eighth of the window). Two things differ. The weights are the plain
product of one Gaussian per axis; MONAI raises the smallest ones to 1e-3. The sum of the weights of
all windows is then a product of one short vector per axis too, so no map of counts is kept or added
to. And windows are taken plane after plane along the first axis: rows that no later window reaches
are divided, handed out and forgotten, so that a mask of a volume can be made without ever holding
the probabilities of all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce
from itertools import islice, product
from math import prod

import numpy as np
import torch
from torch import Tensor

from shared_runtime.errors import HeedError, UsageError

SIGMA = 0.125
"""Standard deviation of the weights as a share of the window; nnU-Net's and MONAI's."""
LARGEST_EXACT = 2**28
"""Values up to which the probabilities of a whole volume are kept in float32 (1 GiB)."""

Corner = tuple[int, ...]


def window_starts(size: int, window: int, overlap: float) -> list[int]:
    """Return where windows start along an axis of `size` voxels; the last one ends with it.

    Args:
        size: voxels, at least `window`.
        window: voxels of a window.
        overlap: share of a window that the next one covers too, 0 to below 1.
    """
    step = max(1, int(window * (1 - overlap)))
    return [*range(0, size - window, step), size - window]


def gaussian(window: int) -> Tensor:
    """Return the weights of a window along one axis, float32 `[window]`, at most 1."""
    offset = torch.arange(window, dtype=torch.float64) - (window - 1) / 2
    return torch.exp(-0.5 * (offset / (SIGMA * window)) ** 2).float()


def finished_rows(
    function: Callable[[Tensor], Tensor],
    array: np.ndarray,
    *,
    window: Sequence[int],
    overlap: float = 0.5,
    batch_size: int = 1,
    device: torch.device,
) -> Iterator[Tensor]:
    """Apply `function` to overlapping windows; yield the blended result from first row to last.

    Axes shorter than the window are padded with zeros on both sides, as MONAI pads them.

    Args:
        function: takes `[B, C, *window]` float32, returns `[B, M, *window]`.
        array: `[C, *grid]`, in memory or mapped from a file.
        window: voxels of a window along each axis of the grid.
        overlap: share by which neighbouring windows overlap, 0 to below 1.
        batch_size: windows at once.
        device: where `function` works and windows are added up.

    Yields:
        `[M, rows, *grid[1:]]` float32 on the CPU; `rows` add up to `grid[0]`.

    Raises:
        UsageError: the window does not fit the array, or a value is out of range.
        HeedError: `function` gives values that are not finite.
    """
    grid = array.shape[1:]
    _check(grid, window, overlap, batch_size)
    padded = [max(size, width) for size, width in zip(grid, window, strict=True)]
    before = [(whole - size) // 2 for whole, size in zip(padded, grid, strict=True)]
    starts = [window_starts(*each, overlap) for each in zip(padded, window, strict=True)]
    axes = [gaussian(width).to(device) for width in window]
    weight = _outer(axes)
    totals = [_total(*each) for each in zip(axes, starts, padded, strict=True)]
    inside = tuple(slice(b, b + size) for b, size in zip(before, grid, strict=True))
    sums: Tensor | None = None
    for first, following in zip(starts[0], [*starts[0][1:], padded[0]], strict=True):
        for corners in _batches(product(*starts[1:]), batch_size):
            windows = np.stack([_cut(array, (first, *c), window, before) for c in corners])
            values = function(torch.from_numpy(windows).to(device))
            if sums is None:
                sums = values.new_zeros(
                    (values.shape[1], window[0], *padded[1:]), dtype=axes[0].dtype
                )
            _add(sums, values, corners, weight)
        assert sums is not None
        done = following - first
        total = _outer([totals[0][first:following], *totals[1:]])
        low, high = (min(max(edge - first, 0), done) for edge in (inside[0].start, inside[0].stop))
        rows = (sums[:, :done] / total)[:, low:high][(slice(None), slice(None), *inside[1:])].cpu()
        if not torch.isfinite(rows.sum()):
            raise HeedError("the model gives values that are not finite; train it again")
        yield rows
        _shift(sums, done)


def gather(parts: Iterable[Tensor], grid: Sequence[int]) -> Tensor:
    """Join what :func:`finished_rows` yields into one `[M, *grid]` tensor on the CPU.

    It is float32, or float16 where it has more than `LARGEST_EXACT` values: probabilities are
    then within 2.5e-4, so only classes closer than 5e-4 to each other can change places.
    """
    whole: Tensor | None = None
    done = 0
    for rows in parts:
        if whole is None:
            shape = (len(rows), *grid)
            exact = prod(shape) <= LARGEST_EXACT
            whole = torch.empty(shape, dtype=torch.float32 if exact else torch.float16)
        whole[:, done : done + rows.shape[1]] = rows
        done += rows.shape[1]
    assert whole is not None
    return whole


def _check(grid: Sequence[int], window: Sequence[int], overlap: float, batch_size: int) -> None:
    if len(grid) != len(window) or min(*grid, *window) < 1:
        raise UsageError(f"a window of {tuple(window)} voxels does not fit a grid of {tuple(grid)}")
    if not 0 <= overlap < 1:
        raise UsageError(f"overlap: expected 0 to below 1, got {overlap}")
    if batch_size < 1:
        raise UsageError(f"batch_size: expected at least 1, got {batch_size}")


def _batches(items: Iterable[Corner], size: int) -> Iterator[list[Corner]]:
    rest = iter(items)
    return iter(lambda: list(islice(rest, size)), [])


def _outer(axes: Sequence[Tensor]) -> Tensor:
    return reduce(lambda product, axis: product[..., None] * axis, axes)


def _total(weights: Tensor, starts: Sequence[int], size: int) -> Tensor:
    """Sum of the weights of all windows along one axis, `[size]`."""
    total = weights.new_zeros(size)
    for start in starts:
        total[start : start + len(weights)] += weights
    return total


def _cut(
    array: np.ndarray, start: Sequence[int], window: Sequence[int], before: Sequence[int]
) -> np.ndarray:
    """Window of the padded array, `[C, *window]` float32."""
    low = [s - b for s, b in zip(start, before, strict=True)]
    high = [min(a + w, size) for a, w, size in zip(low, window, array.shape[1:], strict=True)]
    read = tuple(slice(max(a, 0), z) for a, z in zip(low, high, strict=True))
    part = array[(slice(None), *read)]
    if part.shape[1:] == tuple(window):
        return np.asarray(part, dtype=np.float32)
    whole = np.zeros((len(array), *window), dtype=np.float32)
    put = tuple(slice(max(-a, 0), z - a) for a, z in zip(low, high, strict=True))
    whole[(slice(None), *put)] = part
    return whole


def _add(sums: Tensor, values: Tensor, corners: Sequence[Corner], weight: Tensor) -> None:
    expected = (len(corners), len(sums), *weight.shape)
    if tuple(values.shape) != expected:
        raise ValueError(f"the model gave {tuple(values.shape)} for windows, expected {expected}")
    for value, corner in zip(values, corners, strict=True):
        place = (slice(c, c + w) for c, w in zip(corner, weight.shape[1:], strict=True))
        sums[(slice(None), slice(None), *place)].addcmul_(value, weight)


def _shift(sums: Tensor, done: int) -> None:
    """Move rows `done` further to the front and clear the rest, without a copy of it all."""
    rows = sums.shape[1]
    for row in range(0, rows - done, done):
        end = min(row + done, rows - done)
        sums[:, row:end] = sums[:, row + done : end + done]
    sums[:, rows - done :] = 0

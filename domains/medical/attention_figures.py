"""Pictures of what places of a scan draw on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure

from domains.medical.data.plan import Plan
from domains.medical.tame.figures import plane
from domains.medical.tame.maps import enlarged
from shared_runtime.charts import PALETTE, style
from shared_runtime.domain import Figure

if TYPE_CHECKING:
    from domains.medical.explanation import Explained

_MARK = PALETTE[5]
_HEIGHT = 2.1


def attention_figure(explained: Explained, plan: Plan, attends: bool) -> Figure:
    """Draw a row for each place and a column for each layer, over the slice with the place.

    Args:
        explained: a patch and its maps.
        plan: whose spacing gives the slice its shape.
        attends: whether the model has any attention layer.
    """
    size = explained.predicted.shape
    aspect = (
        plan.spacing[0] / plan.spacing[1] if len(size) == 2 else (plan.spacing[1] / plan.spacing[0])
    )
    columns = [(_name(each.layer, each.exact), each.maps.numpy()) for each in explained.maps]
    columns.append(("input", explained.sensitivity))
    lines = len(explained.places)
    with style():
        width = _HEIGHT * _wide(size, plan.spacing) + 0.15
        figure = MatplotlibFigure(
            figsize=(width * (1 + len(columns)) + 0.4, (_HEIGHT + 0.1) * lines + 0.3)
        )
        grid = figure.subplots(lines, 1 + len(columns), squeeze=False)
        for number, (query, place) in enumerate(explained.places.items()):
            level = None if len(size) == 2 else place[2]
            row = grid[number]
            for axes in row:
                _background(axes, explained, level, aspect)
            row[0].set_ylabel(query)
            _contours(row[0], explained, level)
            for axes, (_, maps) in zip(row[1:], columns, strict=True):
                heat = plane(_fine(maps[number], size), level)
                heat = (heat / max(float(np.percentile(heat, 99.8)), 1e-30)).clip(0, 1)
                axes.imshow(
                    heat, cmap="inferno", alpha=0.2 + 0.6 * heat, vmin=0, vmax=1, aspect=aspect
                )
            for axes in row:
                _mark(axes, place, size)
        for axes, title in zip(grid[0], ("image", *(name for name, _ in columns)), strict=True):
            axes.set_title(title, fontsize=8.5)
    weights = (
        "Columns are layers in the order they run: attention weights, mean over "
        "heads, or (marked ∂) how the layer's output at the place changes with its input. "
        if explained.maps
        else ""
    )
    none = "" if attends else "This model has no attention layer. "
    caption = (
        f"{none}What the circled place draws on, each row in the slice that holds it; dark is "
        f"little, bright is much, on a scale of its own. {weights}Last: how the predicted class of "
        "the place changes with the image. First: outlines of what is predicted."
    )
    return Figure(f"What {explained.case} is segmented by", caption, figure)


def _wide(size: Sequence[int], spacing: Sequence[float]) -> float:
    """Return how many times as wide as high a slice is drawn."""
    wide, high = (1, 0) if len(size) == 2 else (0, 1)
    return (size[wide] * spacing[wide]) / (size[high] * spacing[high])


def _background(axes: Axes, explained: Explained, level: int | None, aspect: float) -> None:
    channels = explained.image[0].numpy()
    low, high = np.percentile(channels, (0.5, 99.5))
    grey = ((channels - low) / max(float(high - low), 1e-12)).clip(0, 1)
    planes = np.stack([plane(one, level) for one in grey], axis=-1)
    colour = planes.shape[-1] == 3
    axes.imshow(planes if colour else planes[..., 0], cmap="gray", vmin=0, vmax=1, aspect=aspect)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    axes.spines[:].set_visible(False)


def _contours(axes: Axes, explained: Explained, level: int | None) -> None:
    labels = plane(explained.predicted, level)
    for number in np.unique(labels[labels > 0]):
        color = PALETTE[int(number) % len(PALETTE)]
        axes.contour(labels == number, levels=[0.5], colors=[color], linewidths=1.2)


def _mark(axes: Axes, place: Sequence[int], size: Sequence[int]) -> None:
    """Circle a voxel; slices have their second axis upwards."""
    x, y = (place[1], place[0]) if len(size) == 2 else (place[0], size[1] - 1 - place[1])
    axes.plot(x, y, "o", markersize=7, markerfacecolor="none", markeredgecolor=_MARK, mew=1.6)


def _fine(values: np.ndarray, size: Sequence[int]) -> np.ndarray:
    grid = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))[None, None]
    return enlarged(grid, size)[0, 0].numpy()


def _name(layer: str, exact: bool) -> str:
    short = layer if len(layer) <= 20 else "…" + layer[-19:]
    return short if exact else f"∂ {short}"

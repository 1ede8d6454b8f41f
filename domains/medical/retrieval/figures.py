"""Pictures of retrieval: neighbours, attention, and the embedding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure

from domains.medical.retrieval.data import RetrievalImages
from domains.medical.retrieval.inference import Gallery
from domains.medical.retrieval.scoring import ranked
from domains.medical.retrieval.weak import otsu
from shared_runtime.charts import INK, PALETTE, style
from shared_runtime.domain import Figure, Prepared

_RIGHT, _WRONG = PALETTE[2], PALETTE[1]
_QUERIES = 6
_NEAREST = 6


def neighbour_figure(
    items: RetrievalImages,
    embedding: np.ndarray,
    train: RetrievalImages,
    gallery: Gallery,
    prepared: Prepared,
) -> Figure:
    """Draw images spread over the classes, and the training images nearest to each."""
    names = prepared.preprocessing["targets"]
    place = {case: row for row, case in enumerate(train.ids)}
    order = np.argsort(items.target, kind="stable")
    rows = order[np.linspace(0, len(order) - 1, min(_QUERIES, len(order))).astype(int)]
    nearest, _ = ranked(embedding[rows], gallery.embedding, most=_NEAREST)
    with style():
        figure = MatplotlibFigure(figsize=(1.25 * (1 + _NEAREST), 1.5 * len(rows)))
        grid = figure.subplots(len(rows), 1 + _NEAREST, squeeze=False)
        for line, (row, found) in enumerate(zip(rows, nearest, strict=True)):
            show(grid[line, 0], items.images[row], prepared)
            grid[line, 0].set_title(names[items.target[row]], fontsize=8, pad=3)
            for column in range(_NEAREST):
                axes = grid[line, 1 + column]
                case = gallery.ids[found[column]] if column < len(found) else None
                if case not in place:
                    axes.set_axis_off()
                    continue
                show(axes, train.images[place[case]], prepared)
                target = gallery.target[found[column]]
                right = target == items.target[row]
                _frame(axes, _RIGHT if right else _WRONG)
                axes.set_title(
                    names[target],
                    fontsize=8,
                    pad=3,
                    fontweight="normal",
                    color=INK if right else _WRONG,
                )
    caption = (
        "Left: images that the model has not seen; right of each the training images nearest to "
        "it, nearest first. Green: of the same class; orange: of another."
    )
    return Figure("Nearest training images", caption, figure)


def attention_figure(
    items: RetrievalImages, maps: np.ndarray, prepared: Prepared, *, most: int = 8
) -> Figure:
    """Draw maps over images spread over the classes, with the masks.

    Args:
        items: the images.
        maps: `[n, *size]`, contributions or attention.
        prepared: names of the classes and the statistics.
        most: images.
    """
    names = prepared.preprocessing["targets"]
    order = np.argsort(items.target, kind="stable")
    rows = order[np.linspace(0, len(order) - 1, min(most, len(order))).astype(int)]
    columns = min(4, len(rows))
    lines = -(-len(rows) // columns)
    with style():
        figure = MatplotlibFigure(figsize=(1.9 * columns, 2.15 * lines))
        grid = figure.subplots(lines, columns, squeeze=False)
        for axes in grid.ravel():
            axes.set_axis_off()
        for axes, row in zip(grid.ravel(), rows, strict=False):
            show(axes, items.images[row], prepared)
            heat = _slice(maps[row])
            span = max(float(np.ptp(maps[row])), 1e-12)
            level = (heat - maps[row].min()) / span
            axes.imshow(level, cmap="inferno", alpha=0.25 + 0.45 * level, vmin=0, vmax=1)
            axes.contour(heat, levels=[otsu(maps[row])], colors="white", linewidths=1.0)
            if items.masks is not None:
                truth = _slice(items.masks[row].astype(float))
                if 0 < truth.mean() < 1:
                    axes.contour(truth, levels=[0.5], colors=[PALETTE[2]], linewidths=1.2)
            axes.set_title(f"{items.ids[row]} · {names[items.target[row]]}", fontsize=8, pad=3)
    caption = (
        "What each place adds to the embedding, from dark to bright over the range of each image. "
        "White: Otsu's threshold, the border of the weak mask."
        + (" Green: the true mask." if items.masks is not None else "")
    )
    return Figure("Where the embedding comes from", caption, figure)


def embedding_figure(embedding: np.ndarray, target: np.ndarray, names: Sequence[str]) -> Figure:
    """Draw the two principal components of embeddings, a colour for each class."""
    centred = embedding - embedding.mean(axis=0)
    _, spread, axes_of = np.linalg.svd(centred, full_matrices=False)
    points = centred @ axes_of[:2].T
    points = np.pad(points, ((0, 0), (0, 2 - points.shape[1])))
    share = spread**2 / max(float((spread**2).sum()), 1e-30)
    marks = "osD^vP"
    with style():
        figure = MatplotlibFigure(figsize=(5.6, 4.2))
        axes = figure.subplots()
        for number, name in enumerate(names):
            rows = target == number
            if rows.any():
                axes.scatter(
                    points[rows, 0],
                    points[rows, 1],
                    s=22,
                    label=name,
                    alpha=0.8,
                    color=PALETTE[number % len(PALETTE)],
                    marker=marks[number // len(PALETTE) % len(marks)],
                )
        axes.set_xlabel(f"first component, {100 * share[0]:.0f} % of the variance")
        axes.set_ylabel(f"second, {100 * share[min(1, len(share) - 1)]:.0f} %")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return Figure("Embedding", "Each image by the two main directions of its embedding.", figure)


def show(axes: Axes, image: np.ndarray, prepared: Prepared) -> None:
    """Draw a normalised image `[C, *size]`: in colour, grey, or the middle slice of a volume."""
    state = prepared.preprocessing
    shape = (-1,) + (1,) * (image.ndim - 1)
    raw = image.astype(np.float32) * np.asarray(state["std"], np.float32).reshape(shape)
    raw = raw + np.asarray(state["mean"], np.float32).reshape(shape)
    low, high = np.percentile(raw, (0.5, 99.5))
    level = ((raw - low) / max(float(high - low), 1e-12)).clip(0, 1)
    planes = np.stack([_slice(one) for one in level], axis=-1)
    axes.imshow(planes if planes.shape[-1] == 3 else planes[..., 0], cmap="gray", vmin=0, vmax=1)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    axes.spines[:].set_visible(False)


def _slice(array: np.ndarray) -> np.ndarray:
    """Return a picture's rows and columns; of a volume the middle axial slice, front up."""
    return array if array.ndim == 2 else array[:, :, array.shape[2] // 2].T[::-1]


def _frame(axes: Axes, color: str) -> None:
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color(color)
    axes.spines[:].set_linewidth(2.5)

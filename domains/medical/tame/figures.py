"""Pictures of explanation maps and of how they are scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure as MatplotlibFigure

from domains.medical.tame.maps import masked
from domains.medical.tame.scoring import METHODS, STEPS, Explanations, brightest
from shared_runtime.charts import PALETTE, style
from shared_runtime.domain import Figure

_ROWS = 6
_KEPT = 15


def maps_figure(found: Explanations, names: Sequence[str], spacing: Sequence[float]) -> Figure:
    """Draw images with the map of each method, and what the brightest 15 % leave of them.

    Args:
        found: images and maps.
        names: of the classes.
        spacing: millimetres between pixels or voxels.
    """
    order = np.argsort(found.chosen.numpy(), kind="stable")
    rows = order[np.linspace(0, len(order) - 1, min(_ROWS, len(order))).astype(int)]
    aspect = 1.0 if len(spacing) == 2 else spacing[1] / spacing[0]
    with style():
        figure = MatplotlibFigure(figsize=(1.9 * 5, 2.0 * len(rows)))
        grid = figure.subplots(len(rows), 5, squeeze=False)
        for line, row in zip(grid, rows, strict=True):
            image, best = found.image[row].numpy(), found.maps["T-TAME"][row].numpy()
            level = int(best.sum(axis=(0, 1)).argmax()) if best.ndim == 3 else None
            kept = brightest(found.maps["T-TAME"][row][None], _KEPT)
            left = masked(found.image[row][None], kept)[0].numpy()
            low, high = np.percentile(image, (0.5, 99.5))
            for axes, picture in ((line[0], image), (line[4], left)):
                axes.imshow(_picture(picture, level, low, high), cmap="gray", aspect=aspect)
            for axes, method in zip(line[1:4], METHODS, strict=True):
                axes.imshow(_picture(image, level, low, high), cmap="gray", aspect=aspect)
                heat = plane(found.maps[method][row].numpy(), level)
                axes.imshow(
                    heat, cmap="inferno", alpha=0.15 + 0.6 * heat, vmin=0, vmax=1, aspect=aspect
                )
            name = names[int(found.chosen[row])]
            line[0].set_ylabel(f"{name}\n{100 * float(found.confidence[row]):.0f} %", fontsize=9)
            for axes in line:
                axes.set_xticks([])
                axes.set_yticks([])
                axes.grid(False)
                axes.spines[:].set_visible(False)
        for axes, title in zip(grid[0], ("image", *METHODS, "brightest 15 %"), strict=True):
            axes.set_title(title)
    caption = (
        "Maps of one class that the model sees in each image, with its confidence; the slice of a "
        "volume is the one with most of the map. Right: what the brightest 15 % of the T-TAME map "
        "leave of the image."
    )
    return Figure("Explanation maps", caption, figure)


def curves_figure(curves: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Draw the model's confidence while places are shown, or hidden, brightest first."""
    share = np.arange(STEPS + 1) * 100 / STEPS
    with style():
        figure = MatplotlibFigure(figsize=(7.4, 3.2))
        for axes, name in zip(
            figure.subplots(1, 2, sharey=True), ("insertion", "deletion"), strict=True
        ):
            for (method, values), color in zip(curves.items(), PALETTE, strict=False):
                axes.plot(share, values[name], color=color, label=method)
            axes.set_title(name)
            axes.set_xlabel("places shown, %" if name == "insertion" else "places hidden, %")
            axes.set_ylim(0, 1.02)
        figure.axes[0].set_ylabel("confidence of the model")
        figure.axes[0].legend(loc="lower right")
    caption = (
        "Mean confidence in the explained class. Good maps raise it early when their brightest "
        "places are shown, and lower it early when these are hidden."
    )
    return Figure("Insertion and deletion", caption, figure)


def losses_figure(history: Sequence[Mapping[str, float]]) -> Figure:
    """Draw the terms of the loss, each the mean of a twentieth of the steps."""
    width = max(1, len(history) // 20)
    with style():
        figure = MatplotlibFigure(figsize=(6.4, 3.0))
        axes = figure.subplots()
        for name, color in zip(("cross_entropy", "area", "variation"), PALETTE, strict=False):
            values = np.array([row[name] for row in history])
            means = [values[i : i + width].mean() for i in range(0, len(values), width)]
            steps = [
                history[min(i + width, len(values)) - 1]["step"]
                for i in range(0, len(values), width)
            ]
            axes.plot(steps, means, color=color, label=name.replace("_", " "))
        axes.set_xlabel("step")
        axes.set_ylabel("weighted loss")
        axes.legend()
    return Figure("Loss of the maps", "Terms of the loss with their weights.", figure)


def plane(array: np.ndarray, level: int | None) -> np.ndarray:
    """Return rows and columns: a picture's own, or an axial slice with the front up."""
    return array if level is None else array[:, :, level].T[::-1]


def _picture(image: np.ndarray, level: int | None, low: float, high: float) -> np.ndarray:
    grey = ((image - low) / max(float(high - low), 1e-12)).clip(0, 1)
    planes = np.stack([plane(one, level) for one in grey], axis=-1)
    return planes if planes.shape[-1] == 3 else planes[..., 0]

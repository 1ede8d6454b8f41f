"""Pictures of cases: contours of prediction and truth, where they differ, and what is unsure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from domains.medical.data.case import Grid
from domains.medical.planes import Plane, planes
from shared_runtime.charts import INK, style
from shared_runtime.domain import Figure

COLOURS = ("#4fc3ff", "#ff8a3d", "#3ddc97", "#f48fd0", "#ffd54a", "#b39dff")
"""Of labels, in order; bright enough for grey pictures."""
_ERRORS = (
    ("right", "#4fc3ff"),
    ("missed", "#ff5a36"),
    ("invented", "#ffd54a"),
    ("other", "#f48fd0"),
)
_UNSURE = "magma"
_WIDTH = 7.2
_MARGIN = 0.35
_LEGEND: dict[str, Any] = {"loc": "outside upper left", "borderaxespad": 0.2, "handlelength": 1.6}


@dataclass(frozen=True)
class CaseView:
    """What a picture of a case shows.

    Args:
        case: its id.
        image: `[C, *grid]`.
        prediction: class indices `[*grid]`.
        truth: class indices `[*grid]`.
        grid: where the voxels are.
        uncertainty: of each voxel `[*grid]`, where there is one.
        note: such as its Dice, after the id.
    """

    case: str
    image: np.ndarray
    prediction: np.ndarray
    truth: np.ndarray
    grid: Grid
    uncertainty: np.ndarray | None = None
    note: str = ""


def overlay_figure(
    views: Mapping[str, CaseView],
    labels: Mapping[str, int],
    *,
    channel: int = 0,
    window: tuple[float, float] | None = None,
) -> Figure:
    """Draw contours over the three planes with the most foreground, one case in each row.

    Args:
        views: by what is said of each, such as "worst"; "" for a single one.
        labels: name to class index.
        channel: shown in grey; pictures of three channels in 2-D are shown in colour.
        window: intensities shown as black and white; None takes percentiles.
    """
    with style():
        figure, rows = _canvas(views, 1)
        for axes_of, (name, view) in zip(rows, views.items(), strict=True):
            for axes, plane in zip(axes_of, _planes(view), strict=True):
                box = _show(axes, view, plane, channel, window)
                _contours(axes, plane.take(view.truth)[box], labels, dashed=True)
                _contours(axes, plane.take(view.prediction)[box], labels, dashed=False)
            _name_row(axes_of[0], name, view)
        _legend(figure, labels, views.values())
    planar = next(iter(views.values())).truth.ndim == 2
    how = "" if planar else " Slices with the most foreground; R is the patient's right."
    return Figure("Prediction and truth", f"Solid: predicted. Dashed: truth.{how}", figure)


def error_figure(
    view: CaseView, *, channel: int = 0, window: tuple[float, float] | None = None
) -> Figure:
    """Draw which voxels are right, missed, invented or of another class, and the uncertainty.

    Args:
        view: the case.
        channel: shown in grey.
        window: intensities shown as black and white; None takes percentiles.
    """
    truth, prediction = view.truth, view.prediction
    kinds = np.zeros(truth.shape, dtype=np.uint8)
    kinds[(truth > 0) & (prediction == truth)] = 1
    kinds[(truth > 0) & (prediction == 0)] = 2
    kinds[(truth == 0) & (prediction > 0)] = 3
    kinds[(truth > 0) & (prediction > 0) & (prediction != truth)] = 4
    colours = ListedColormap([colour for _, colour in _ERRORS])
    unsure = view.uncertainty
    with style():
        figure, rows = _canvas({"": view}, 1 if unsure is None else 2)
        for number, plane in enumerate(_planes(view)):
            box = _show(rows[0][number], view, plane, channel, window)
            shown = np.ma.masked_equal(plane.take(kinds)[box], 0)
            rows[0][number].imshow(shown, cmap=colours, vmin=1, vmax=4, alpha=0.62, **_how(plane))
            if unsure is not None:
                axes = rows[1][number]
                _show(axes, view, plane, channel, window)
                drawn = axes.imshow(
                    plane.take(unsure)[box],
                    cmap=_UNSURE,
                    vmin=float(unsure.min()),
                    vmax=float(max(unsure.max(), unsure.min() + 1e-9)),
                    **_how(plane),
                )
                wrong = plane.take(prediction != truth)[box]
                if wrong.any():
                    axes.contour(wrong, levels=[0.5], colors="white", linewidths=0.7)
        if unsure is not None:
            bar = figure.colorbar(drawn, ax=rows[1], shrink=0.8, label="uncertainty")
            bar.outline.set_visible(False)
        _name_row(rows[0][0], "", view)
        patches = [
            Patch(color=colour, label="other class" if name == "other" else name)
            for number, (name, colour) in enumerate(_ERRORS, start=1)
            if number < 4 or (kinds == 4).any()
        ]
        figure.legend(handles=patches, ncols=4, **_LEGEND)
    text = "Voxels by what the prediction made of them."
    if unsure is not None:
        text += " Below: how unsure it was; white lines enclose its errors."
    return Figure("Where it is wrong", text, figure)


def _planes(view: CaseView) -> tuple[Plane, ...]:
    seen = view.truth if (view.truth > 0).any() else view.prediction
    return planes(seen, view.grid)


def _canvas(
    views: Mapping[str, CaseView], rows_each: int
) -> tuple[MatplotlibFigure, list[list[Axes]]]:
    columns = max(len(_planes(view)) for view in views.values())
    width = _WIDTH if columns == 3 else 0.6 * _WIDTH
    tall = [max(_ratio(view, plane) for plane in _planes(view)) for view in views.values()]
    heights = [width / columns * ratio + 0.35 for ratio in tall for _ in range(rows_each)]
    figure = MatplotlibFigure(figsize=(width, 0.45 + sum(heights)))
    grid = figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights)
    for axes in grid.flat:
        axes.grid(False)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    return figure, [list(row) for row in grid]


def _show(
    axes: Axes, view: CaseView, plane: Plane, channel: int, window: tuple[float, float] | None
) -> tuple[slice, slice]:
    """Draw the slice around its foreground; return what part of it is shown."""
    picture = _picture(view, plane, channel, window)
    box = _seen(view, plane)
    axes.imshow(picture[box], cmap="gray", vmin=0, vmax=1, **_how(plane))
    places = ((0.02, 0.5), (0.98, 0.5), (0.5, 0.98), (0.5, 0.02))
    sides = (("left", "center"), ("right", "center"), ("center", "top"), ("center", "bottom"))
    for letter, at, (across, up) in zip(plane.edges, places, sides, strict=False):
        text = axes.text(*at, letter, transform=axes.transAxes, ha=across, va=up, fontsize=8)
        text.set_color("white")
        text.set_path_effects([withStroke(linewidth=2, foreground="black")])
    if plane.name:
        axes.set_xlabel(f"{plane.name} {plane.index + 1}", fontsize=8.5, labelpad=2)
    return box


def _picture(
    view: CaseView, plane: Plane, channel: int, window: tuple[float, float] | None
) -> np.ndarray:
    """Return the slice scaled to 0 to 1, `[rows, columns]`, or `[rows, columns, 3]` in colour."""
    if view.truth.ndim == 2 and len(view.image) == 3:
        colour = np.stack([plane.take(one) for one in view.image], axis=-1).astype(np.float32)
        low, high = (0.0, 255.0) if colour.max() > 1 else (0.0, 1.0)
        return np.clip((colour - low) / (high - low), 0, 1)
    shown = view.image[channel]
    low, high = window or np.percentile(shown[:: max(1, len(shown) // 64)], [1, 99.7])
    picture = np.clip((plane.take(shown) - low) / max(high - low, 1e-9), 0, 1)
    return picture.astype(np.float32)


def _seen(view: CaseView, plane: Plane) -> tuple[slice, slice]:
    return _box(plane.take((view.truth > 0) | (view.prediction > 0)), plane.aspect)


def _ratio(view: CaseView, plane: Plane) -> float:
    """Return the height of what is shown of a slice over its width."""
    rows, columns = _seen(view, plane)
    return plane.aspect * (rows.stop - rows.start) / (columns.stop - columns.start)


def _box(mask: np.ndarray, aspect: float) -> tuple[slice, slice]:
    """Return a box around the foreground with a margin, square in mm where the slice allows it."""
    if not mask.any():
        return slice(0, mask.shape[0]), slice(0, mask.shape[1])
    bounds = [np.flatnonzero(mask.any(axis=1 - axis))[[0, -1]] for axis in (0, 1)]
    units = (aspect, 1.0)
    side = max((b[1] - b[0] + 1) * unit for b, unit in zip(bounds, units, strict=True))
    side = max(side * (1 + 2 * _MARGIN), 12.0)
    box = []
    for (first, last), unit, size in zip(bounds, units, mask.shape, strict=True):
        length = min(size, int(np.ceil(side / unit)))
        start = int(np.clip(round((first + last + 1 - length) / 2), 0, size - length))
        box.append(slice(start, start + length))
    return box[0], box[1]


def _how(plane: Plane) -> dict[str, Any]:
    return {"aspect": plane.aspect, "interpolation": "nearest"}


def _contours(axes: Axes, mask: np.ndarray, labels: Mapping[str, int], *, dashed: bool) -> None:
    for number, index in enumerate(index for index in labels.values() if index):
        here = np.pad(mask == index, 1)
        if here.any():
            places = [np.arange(-1, n + 1) for n in mask.shape]
            axes.contour(
                places[1],
                places[0],
                here,
                levels=[0.5],
                colors=COLOURS[number % len(COLOURS)],
                linewidths=1.3,
                linestyles=[(0, (2.2, 1.6))] if dashed else "solid",
            )


def _name_row(axes: Axes, name: str, view: CaseView) -> None:
    said = f"{name}: {view.case}" if name else view.case
    axes.set_title(f"{said}  {view.note}".rstrip(), fontsize=9.5)


def _legend(
    figure: MatplotlibFigure, labels: Mapping[str, int], views: Sequence[CaseView] | Any
) -> None:
    shown = set()
    for view in views:
        shown |= set(np.unique(view.truth)) | set(np.unique(view.prediction))
    handles = [
        Line2D([], [], color=COLOURS[number % len(COLOURS)], label=name)
        for number, (name, index) in enumerate((n, i) for n, i in labels.items() if i)
        if index in shown
    ]
    handles += [
        Line2D([], [], color=INK, label="predicted"),
        Line2D([], [], color=INK, linestyle=(0, (2.2, 1.6)), label="truth"),
    ]
    figure.legend(handles=handles, ncols=min(6, len(handles)), **_LEGEND)

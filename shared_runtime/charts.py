"""One look for every figure, and figures as text that an HTML page can hold.

Figures are drawn inside `with style():`. Their colours `INK`, `GRID` and `PALETTE` become
variables of the page when a figure is embedded, so figures follow a light or dark page.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import matplotlib
from cycler import cycler
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

if TYPE_CHECKING:
    import pandas as pd

INK = "#33404d"
GRID = "#d9dee4"
PALETTE = ("#1668a8", "#d55e00", "#009e73", "#b0579a", "#c08a00", "#4fa3d9")
"""Colours told apart with colour-blind eyes too, after Okabe & Ito (2008)."""
SEQUENTIAL = LinearSegmentedColormap.from_list(
    "heed", ["#f4f8fb", "#bcd9ec", "#69afd6", "#1f78b4", "#0b3c66"]
)
"""For attention maps and other values from nothing to much."""
LARGEST_SVG = 400_000
"""Characters above which a figure is embedded as PNG."""

_STYLE: dict[Any, Any] = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "figure.constrained_layout.use": True,
    "font.size": 10.0,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlepad": 9.0,
    "axes.labelsize": 9.5,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=PALETTE),
    "axes.xmargin": 0.02,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.0,
    "xtick.major.size": 3.5,
    "ytick.major.size": 0.0,
    "lines.linewidth": 1.7,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "image.cmap": "Blues",
    "svg.fonttype": "none",
}
_REMARK: dict[str, Any] = {"loc": "right", "fontsize": 9.0, "fontweight": "normal", "pad": 8}
_PIXELS_PER_INCH = 120


@contextmanager
def style() -> Iterator[None]:
    """Draw in the look of Heed's reports inside the block."""
    with matplotlib.rc_context(_STYLE):
        yield


def loss_curves(history: pd.DataFrame) -> Figure:
    """Draw the losses of `history.csv` over the epochs and mark the selected epoch.

    Args:
        history: Columns `epoch`, `train_loss`, `val_loss`.
    """
    with style():
        figure = Figure(figsize=(7.2, 2.9))
        axes = figure.subplots()
        marker = "o" if len(history) < 25 else ""
        for column, label in (("train_loss", "training"), ("val_loss", "validation")):
            axes.plot(history["epoch"], history[column], label=label, marker=marker, markersize=4)
        best = int(history["val_loss"].argmin())
        epoch, loss = history["epoch"].iloc[best], history["val_loss"].iloc[best]
        axes.axvline(epoch, color=INK, linewidth=0.9, linestyle=(0, (2, 3)))
        axes.set_title(f"lowest validation loss {loss:.4g} in epoch {epoch}", **_REMARK)
        axes.set_xlabel("epoch")
        axes.set_ylabel("loss")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, borderaxespad=0.3)
    return figure


def embed(figure: Figure) -> str:
    """Return the figure as an `<svg>` or, where that is large, an `<img>` element."""
    width = f'style="max-width: {_PIXELS_PER_INCH * figure.get_figwidth():.0f}px"'
    svg = _svg(figure)
    if len(svg) <= LARGEST_SVG:
        return svg.replace("<svg", f"<svg {width}", 1)
    encoded = base64.b64encode(png(figure)).decode("ascii")
    return f'<img alt="" {width} src="data:image/png;base64,{encoded}">'


def png(figure: Figure) -> bytes:
    """Return the figure as a PNG file on white."""
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format="png", dpi=160, facecolor="white")
    return buffer.getvalue()


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with style(), matplotlib.rc_context({"svg.hashsalt": "heed"}):
        figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    svg = text[text.index("<svg") :].strip()
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r' xmlns:xlink="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = svg.replace(INK, "var(--ink)").replace(GRID, "var(--grid)")
    for number, color in enumerate(PALETTE):
        svg = svg.replace(color, f"var(--series-{number})")
    return svg

"""Pictures of what a model attended to; needs matplotlib (`pip install 'heed-core[plots]'`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GRID = "#33404d", "#d9dee4"
_MOST_LABELS = 40
"""Labels along an axis above which every other, third, ... is shown."""


def matrix_figure(
    weights: Tensor,
    *,
    title: str = "",
    queries: Sequence[str] | None = None,
    keys: Sequence[str] | None = None,
) -> Figure:
    """Draw the attention matrix of each head side by side, queries downwards.

    Args:
        weights: `[H, L, S]` of one sample. Negative weights are drawn in red.
        title: Above all of them, such as the layer's name.
        queries: Names of the L queries.
        keys: Names of the S keys; those of the queries where None and L = S.

    Raises:
        ValueError: The weights are not of one sample, or names do not fit.
        ImportError: matplotlib is not installed.
    """
    if weights.dim() != 3:
        raise ValueError(
            f"matrix_figure: weights has shape {list(weights.shape)}, "
            "expected [heads, queries, keys] of one sample"
        )
    heads, length, count = weights.shape
    keys = queries if keys is None and length == count else keys
    for name, labels, size in (("queries", queries, length), ("keys", keys, count)):
        if labels is not None and len(labels) != size:
            raise ValueError(f"matrix_figure: got {len(labels)} names of {name}, expected {size}")
    columns = min(heads, 4)
    rows = -(-heads // columns)
    side = min(max(2.6, 0.16 * max(length, count)), 6.0)
    figure, axes = _figure(rows, columns, (columns * side + 0.8, rows * (side + 0.3) + 0.4))
    signed = bool((weights < 0).any())
    largest = float(weights.abs().max()) or 1.0
    look: dict[str, Any] = {
        "cmap": "RdBu" if signed else "Blues",
        "vmin": -largest if signed else 0,
        "vmax": largest,
        "interpolation": "nearest",
    }
    for head in range(rows * columns):
        place = axes[head // columns][head % columns]
        if head >= heads:
            place.set_axis_off()
            continue
        image = place.imshow(_array(weights[head]), **look)
        place.set_title(f"head {head}", fontsize=9, loc="left", color=INK)
        _names(place.xaxis, keys, count, rotate=True)
        _names(place.yaxis, queries if head % columns == 0 else [""] * length, length)
    axes[0][0].set_ylabel("query")
    axes[-1][0].set_xlabel("key")
    figure.colorbar(image, ax=[a for row in axes for a in row], shrink=0.8, label="weight")
    return _titled(figure, title)


def token_figure(
    relevance: Mapping[str, Tensor], tokens: Sequence[str], *, marked: Sequence[int] = ()
) -> Figure:
    """Draw how relevant each token is, one row per method, each scaled to its own largest.

    Args:
        relevance: `[L]` by method: a row of `rollout`, say, that of the class token.
        tokens: L names.
        marked: Tokens to outline, such as those known to be relevant.

    Raises:
        ValueError: A vector does not have one value per token.
        ImportError: matplotlib is not installed.
    """
    for name, values in relevance.items():
        if values.shape != (len(tokens),):
            raise ValueError(
                f"token_figure: {name} has shape {list(values.shape)}, expected [{len(tokens)}]"
            )
    size = (max(4.0, 0.36 * len(tokens) + 1.8), 0.42 * len(relevance) + 1.0)
    figure, ((place,),) = _figure(1, 1, size)
    rows = torch.stack([x / x.abs().max().clamp_min(1e-30) for x in relevance.values()])
    image = place.imshow(_array(rows), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    _names(place.xaxis, tokens, len(tokens), rotate=True)
    _names(place.yaxis, list(relevance), len(relevance))
    for token in marked:
        edges = [token - 0.5, token + 0.5]
        place.vlines(edges, -0.5, len(rows) - 0.5, color="#d55e00", linewidth=1.6)
    figure.colorbar(image, ax=place, label="relevance, largest = 1", shrink=0.9)
    return figure


def head_figure(
    values: Mapping[str, Tensor], *, title: str = "", label: str = "", largest: float | None = None
) -> Figure:
    """Draw one number per head, layers downwards: entropy, sink share, retrieval score, ...

    Args:
        values: `[H]` by layer, first layer first.
        title: What is drawn.
        label: Unit, beside the colour bar.
        largest: Value of the darkest colour; the largest of all by default. Negative values are
            drawn in red.

    Raises:
        ValueError: There are no layers.
        ImportError: matplotlib is not installed.
    """
    if not values:
        raise ValueError("head_figure: got no layers, expected values of at least one")
    heads = max(len(row) for row in values.values())
    table = torch.full((len(values), heads), torch.nan)
    for n, row in enumerate(values.values()):
        table[n, : len(row)] = row.detach().float().cpu()
    size = (0.75 * heads + 2.6, 0.55 * len(values) + 1.3)
    figure, ((place,),) = _figure(1, 1, size)
    known = table.nan_to_num(0)
    top = float(known.abs().max()) if largest is None else largest
    signed = bool((known < 0).any())
    image = place.imshow(
        _array(table), cmap="RdBu" if signed else "Blues",
        vmin=-(top or 1.0) if signed else 0, vmax=top or 1.0, aspect="auto",
    )  # fmt: skip
    for layer in range(len(table)):
        for head in range(heads):
            number = float(table[layer, head])
            if number == number:
                dark = abs(number) > 0.6 * top
                place.text(
                    head, layer, f"{number:.2f}", ha="center", va="center", fontsize=8,
                    color="white" if dark else INK,
                )  # fmt: skip
    _names(place.xaxis, [str(n) for n in range(heads)], heads)
    _names(place.yaxis, list(values), len(values))
    place.set_xlabel("head")
    figure.colorbar(image, ax=place, label=label, shrink=0.9)
    return _titled(figure, title)


def _figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Figure, Any]:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ImportError(
            "matplotlib is needed for pictures but is not installed: pip install 'heed-core[plots]'"
        ) from error
    figure = Figure(figsize=size, layout="constrained", dpi=120)
    axes = figure.subplots(rows, columns, squeeze=False)
    for place in axes.flat:
        _plain(place)
    return figure, axes


def _plain(place: Axes) -> None:
    place.tick_params(length=0, labelsize=8, labelcolor=INK)
    place.xaxis.label.set_color(INK)
    place.yaxis.label.set_color(INK)
    for spine in place.spines.values():
        spine.set_color(GRID)


def _names(axis: Any, labels: Sequence[str] | None, count: int, *, rotate: bool = False) -> None:
    step = max(1, -(-count // _MOST_LABELS)) if labels is not None else max(1, count // 6)
    at = list(range(0, count, step))
    shown = [str(n) for n in at] if labels is None else [labels[n] for n in at]
    turned = rotate and labels is not None and max(map(len, shown)) > (1 if count > 20 else 2)
    axis.set_ticks(at, shown, rotation=90 if turned else 0)


def _titled(figure: Figure, title: str) -> Figure:
    if title:
        figure.suptitle(title, fontsize=10.5, fontweight="bold", x=0.01, ha="left", color=INK)
    return figure


def _array(values: Tensor) -> Any:
    return values.detach().float().cpu().numpy()

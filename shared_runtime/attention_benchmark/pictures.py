"""Pictures of a table: speed and memory of every mechanism at every length."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from shared_runtime.attention_benchmark.cells import BASELINE, PASSES
from shared_runtime.attention_benchmark.crossover import Row, speed
from shared_runtime.charts import INK, style

WORSE_TO_BETTER = LinearSegmentedColormap.from_list(
    "worse_to_better", ["#b34a00", "#eb9a5c", "#f7f7f5", "#7db4dc", "#0f5a96"]
)
MOST = 16.0
"""Factor at which colours end."""
_MASKS = ("full", "causal")
_TITLES = {"forward": "forward", "training": "training"}


def speed_picture(rows: Sequence[Row]) -> Figure:
    """Draw how many times as fast as the baseline each mechanism is, a panel for pass and mask."""
    return _panels(rows, speed, "Speed, times that of fused softmax attention", better_above=True)


def memory_picture(rows: Sequence[Row]) -> Figure:
    """Draw the peak of memory of each mechanism, in times of the baseline's."""
    baselines = {
        (row["mechanism"], row["mask"], row["pass"], row["length"]): row
        for row in rows
        if row["family"] == BASELINE
    }

    def times(row: Row) -> float | None:
        beside = baselines.get((row["baseline"], row["mask"], row["pass"], row["length"]))
        if beside is None or not beside.get("peak_bytes") or not row.get("peak_bytes"):
            return None
        return float(row["peak_bytes"]) / float(beside["peak_bytes"])

    return _panels(
        rows, times, "Peak of memory, times that of fused softmax attention", better_above=False
    )


def _panels(
    rows: Sequence[Row], value: Callable[[Row], float | None], title: str, *, better_above: bool
) -> Figure:
    lengths = sorted({row["length"] for row in rows})
    kinds = [(p, m) for p in PASSES for m in _MASKS]
    named = {
        kind: list(
            dict.fromkeys(
                row["mechanism"]
                for row in rows
                if (row["pass"], row["mask"]) == kind and row["family"] != BASELINE
            )
        )
        for kind in kinds
    }
    kinds = [kind for kind in kinds if named[kind]]
    tallest = max((len(names) for names in named.values()), default=1)
    with style():
        width = 1.6 + 0.52 * len(lengths)
        figure = Figure(figsize=(width * len(kinds), 1.2 + 0.24 * tallest))
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
        axes = figure.subplots(1, len(kinds), squeeze=False)[0]
        for ax, kind in zip(axes, kinds, strict=True):
            chosen = [row for row in rows if (row["pass"], row["mask"]) == kind]
            _panel(ax, chosen, named[kind], lengths, value, better_above)
            ax.set_title(f"{_TITLES[kind[0]]}, {kind[1]}")
            ax.set_ylim(tallest - 0.5, -0.5)
    return figure


def _panel(
    ax: Any,
    rows: Sequence[Row],
    names: Sequence[str],
    lengths: Sequence[int],
    value: Callable[[Row], float | None],
    better_above: bool,
) -> None:
    shades = np.full((len(names), len(lengths)), np.nan)
    for row in rows:
        if row["family"] == BASELINE:
            continue
        place = names.index(row["mechanism"]), lengths.index(row["length"])
        found = value(row)
        if found:
            sign = 1 if better_above else -1
            shades[place] = sign * math.log(found) / math.log(MOST)
        text = _number(found) if found else {"ok": "-", "failed": "?"}.get(row["status"], "no")
        strong = abs(shades[place]) > 0.62 if found else False
        ax.text(
            place[1], place[0], text, ha="center", va="center", fontsize=7.5,
            color="white" if strong else INK,
        )  # fmt: skip
    ax.imshow(shades, cmap=WORSE_TO_BETTER, vmin=-1, vmax=1, aspect="auto", interpolation="none")
    ax.set_xticks(range(len(lengths)), [_length(n) for n in lengths])
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.grid(False)
    for side in ax.spines.values():
        side.set_visible(False)
    ax.tick_params(length=0)


def _number(value: float) -> str:
    if value >= 10:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 0.95 else f"{value:.2f}".lstrip("0")


def _length(n: int) -> str:
    return f"{n // 1024}k" if n >= 1024 and n % 1024 == 0 else f"{n:,}"

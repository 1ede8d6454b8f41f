"""Pictures of scores: Dice of every case, volumes that agree, and calibration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.ticker import PercentFormatter

from domains.medical.scoring import Rows, table
from shared_runtime.charts import INK, PALETTE, style
from shared_runtime.domain import Figure

_REFERENCE: dict[str, Any] = {"color": INK, "linewidth": 0.8, "linestyle": (0, (2, 3))}
_MOST_LABELS = 20


def typical_cases(rows: Rows) -> dict[str, str]:
    """Return the cases with the "worst", the "median" and the "best" mean Dice over labels.

    Fewer where there are fewer than three scored cases.
    """
    mean = table(rows).groupby("case", sort=True)["dice"].mean().dropna().sort_values(kind="stable")
    if mean.empty:
        return {}
    places = {"worst": 0, "median": (len(mean) - 1) // 2, "best": len(mean) - 1}
    chosen = {name: str(mean.index[place]) for name, place in places.items()}
    return (
        chosen
        if len(mean) > 2
        else dict(zip(("worst", "best"), mean.index.astype(str), strict=False))
    )


def dice_figure(rows: Rows) -> Figure:
    """Draw the Dice of every case by label, with quartiles; the most frequent 20 labels."""
    frame = table(rows).dropna(subset=["dice"])
    labels = frame["label"].value_counts(sort=False).nlargest(_MOST_LABELS).index
    ordered = [label for label in frame["label"].unique() if label in labels]
    with style():
        figure = MatplotlibFigure(figsize=(7.2, 1.2 + 0.5 * len(ordered)))
        axes = figure.subplots()
        axes.grid(axis="x")
        axes.grid(False, axis="y")
        for row, label in enumerate(ordered):
            each = frame.loc[frame["label"] == label, "dice"].to_numpy()
            spread = np.random.default_rng(row).uniform(-0.2, 0.2, len(each))
            axes.scatter(each, row + spread, s=13, color=PALETTE[0], alpha=0.45, linewidth=0)
            low, middle, high = np.quantile(each, [0.25, 0.5, 0.75])
            axes.plot([low, high], [row, row], color=INK, linewidth=5, alpha=0.3)
            axes.plot(middle, row, marker="|", color=INK, markersize=15, markeredgewidth=2)
            axes.plot(each.mean(), row, marker="D", color=PALETTE[1], markersize=5.5, linestyle="")
        axes.set_yticks(range(len(ordered)), labels=ordered)
        axes.set_ylim(max(len(ordered), 1) - 0.5, -0.5)
        axes.set_xlim(-0.02, 1.02)
        axes.set_xlabel("Dice")
    return Figure(
        "Dice of every case",
        "A dot is a case; bar: the middle half of the cases; stroke: median; diamond: mean.",
        figure,
    )


def volume_figure(rows: Rows) -> Figure:
    """Draw the difference of predicted and true volumes over their mean (Bland & Altman 1986)."""
    frame = table(rows)
    frame = frame[frame["present"] != "neither"]
    unit = {"cm2": "cm²"}.get(frame["unit"].iloc[0], frame["unit"].iloc[0]) if len(frame) else ""
    with style():
        figure = MatplotlibFigure(figsize=(7.2, 3.4))
        axes = figure.subplots()
        lines = []
        for number, (label, part) in enumerate(frame.groupby("label", sort=False)):
            colour = PALETTE[number % len(PALETTE)]
            middle = (part["volume"] + part["volume_predicted"]) / 2
            difference = part["volume_difference"]
            axes.scatter(middle, difference, s=16, color=colour, alpha=0.65, linewidth=0)
            bias, spread = difference.mean(), difference.std(ddof=1) if len(part) > 1 else 0.0
            span = [middle.min(), middle.max()]
            axes.plot(span, [bias] * 2, color=colour, label=f"{label}: {bias:+.3g} {unit}")
            for bound in (bias - 1.96 * spread, bias + 1.96 * spread):
                lines.append((span, bound, colour))
        for span, bound, colour in lines:
            axes.plot(span, [bound] * 2, color=colour, linewidth=1, linestyle=(0, (4, 3)))
        axes.axhline(0, **_REFERENCE)
        axes.set_xlabel(f"mean of predicted and true volume, {unit}")
        axes.set_ylabel(f"predicted - true, {unit}")
        if frame["label"].nunique() <= _MOST_LABELS and len(frame):
            axes.legend(
                ncols=min(3, frame["label"].nunique()),
                loc="lower left",
                bbox_to_anchor=(0.0, 1.0),
                borderaxespad=0.3,
            )
    return Figure(
        "Volumes",
        "Each case's predicted less true volume; solid: mean difference; dashed: where 95 % of "
        "differences lie if they are normal.",
        figure,
    )


def calibration_figure(
    reliability: pd.DataFrame, risk: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None
) -> Figure:
    """Draw how often foreground was there by its probability, and errors by certainty.

    Args:
        reliability: of `calibration.reliability_table` or `pooled_reliability`.
        risk: by case or model, what `calibration.risk_coverage` returns.
    """
    with style():
        figure = MatplotlibFigure(figsize=(7.2 if risk else 4.2, 3.4))
        left, *right = figure.subplots(1, 2 if risk else 1, squeeze=False)[0]
        left.plot([0, 1], [0, 1], **_REFERENCE)
        left.plot(reliability["probability"], reliability["frequency"], marker="o", markersize=5)
        left.set_xlim(-0.02, 1.02)
        left.set_ylim(-0.02, 1.02)
        left.set_xlabel("probability of foreground")
        left.set_ylabel("share that is foreground")
        for axes in right:
            for name, (coverage, rate) in (risk or {}).items():
                axes.plot(coverage, rate, label=name)
            axes.set_xlim(0, 1.02)
            axes.set_ylim(bottom=0)
            axes.set_xlabel("share of voxels kept, surest first")
            axes.set_ylabel("errors among them")
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
            if len(risk or {}) > 1:
                axes.legend()
    text = (
        "Left: on the dotted diagonal a probability is what it says."
        if risk
        else ("On the dotted diagonal a probability is what it says.")
    )
    if risk:
        text += " Right: error rate when the least sure voxels are left to a reader."
    return Figure("Calibration", text, figure)

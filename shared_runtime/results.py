"""The results of a run: `metrics.json` and the one table of a model and its baselines."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shared_runtime.domain import Evaluation

HIGHER_IS_BETTER = frozenset(
    {
        "accuracy",
        "attention_dice",
        "auc",
        "auroc",
        "average_precision",
        "balanced_accuracy",
        "dice",
        "f1",
        "f1_down",
        "f1_stationary",
        "f1_up",
        "fmax",
        "gross_pnl",
        "hit_rate",
        "increase_100",
        "increase_15",
        "increase_50",
        "insertion",
        "iou",
        "macro_f1",
        "mcc",
        "micro_f1",
        "net_bps_per_trade",
        "net_pnl",
        "nmi",
        "nsd",
        "p_t",
        "p_t_exact",
        "pck",
        "precision",
        "precision_down",
        "precision_stationary",
        "precision_up",
        "r2",
        "recall",
        "recall_1",
        "recall_2",
        "recall_4",
        "recall_8",
        "recall_down",
        "recall_stationary",
        "recall_up",
        "sensitivity",
        "specificity",
        "transaction_precision",
        "uar",
        "uncertainty_auroc",
        "weak_dice",
        "weighted_f1",
    }
)
LOWER_IS_BETTER = frozenset(
    {
        "assd",
        "average_drop_100",
        "average_drop_15",
        "average_drop_50",
        "brier",
        "cer",
        "crps",
        "deletion",
        "ece",
        "hd95",
        "log_loss",
        "loss",
        "mae",
        "mape",
        "mase",
        "mpjpe",
        "mse",
        "msse",
        "nll",
        "p_mpjpe",
        "pinball",
        "rmse",
        "rmsse",
        "smape",
        "smin",
        "uncertainty_aurc",
        "volume_error",
        "wape",
        "weighted_quantile_loss",
        "wer",
        "wql",
    }
)
_HIGHER_OF_EACH = ("dice_", "iou_", "nsd_", "lesion_", "pooled_")
_LOWER_OF_EACH = ("hd95_", "assd_", "volume_error_")
"""Beginnings of the names of a score of each label."""


@dataclass(frozen=True)
class Cell:
    """One number of the table; `text` is what is shown."""

    text: str
    interval: str
    best: bool


@dataclass(frozen=True)
class Row:
    """One model or baseline."""

    name: str
    is_model: bool
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """The model and its baselines, one column per metric, the best of each column marked."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def metrics_are_rows(self) -> bool:
        """Whether so many metrics read better below each other than beside each other."""
        return len(self.columns) > max(5, len(self.rows))


def metrics_document(
    model: str,
    split: str,
    evaluation: Evaluation,
    seed: int,
    baselines: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """Return the scores of a run; `n_scored` counts every scored item.

    `metrics.json` is this without what is only to be shown: the `text`, and `shown`, the metrics
    of tables. See `written`.
    """
    said: dict[str, Any] = {"text": evaluation.text} if evaluation.text else {}
    if evaluation.shown:
        said["shown"] = [name for name in evaluation.shown if name in evaluation.metrics]
    return {
        "model": model,
        "split": split,
        "n_scored": evaluation.n_scored,
        "seed": seed,
        "metrics": {
            name: dataclasses.asdict(interval) for name, interval in evaluation.metrics.items()
        },
        "baselines": {name: dict(values) for name, values in baselines.items()},
        **said,
    }


def written(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `metrics.json` holds of a `metrics_document`."""
    return {key: value for key, value in document.items() if key not in ("text", "shown")}


def results_table(document: Mapping[str, Any], *, most: int | None = None) -> Table:
    """Return the table of a `metrics.json` document, with at most `most` metrics.

    Metrics without a better direction, such as coverage, have no best value.
    """
    metrics: Mapping[str, Mapping[str, float | None]] = document["metrics"]
    columns = tuple(document.get("shown", metrics))[:most]
    values = {document["model"]: {name: metrics[name]["value"] for name in columns}}
    values |= document["baselines"]
    best = {
        column: _best(column, [row.get(column) for row in values.values()]) for column in columns
    }
    rows = []
    for number, (name, row) in enumerate(values.items()):
        cells = tuple(
            Cell(
                _text(row.get(column)),
                _interval(metrics[column]) if number == 0 else "",
                row.get(column) is not None and _text(row.get(column)) == best[column],
            )
            for column in columns
        )
        rows.append(Row(name, number == 0, cells))
    return Table(columns, tuple(rows))


def table_text(document: Mapping[str, Any]) -> str:
    """Return the table for a terminal, below what it says in words and the scored items."""
    table = results_table(document)
    lines = [["", *table.columns]]
    for row in table.rows:
        cells = [
            f"{cell.text}{'*' if cell.best else ' '}{' ' + cell.interval if cell.interval else ''}"
            for cell in row.cells
        ]
        lines.append([row.name, *cells])
    if table.metrics_are_rows:
        lines = [list(column) for column in zip(*lines, strict=True)]
    head = f"{document['split']}: {document['n_scored']} items scored, seed {document['seed']}"
    note = "* best of its metric; [95 % confidence interval]"
    said = [document["text"]] if "text" in document else []
    return "\n".join([*said, head, aligned(lines), note])


def aligned(lines: list[list[str]]) -> str:
    """Join cells into columns of equal width."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _best(metric: str, values: list[float | None]) -> str | None:
    present = [value for value in values if value is not None]
    if len({_text(value) for value in present}) < 2:
        return None
    if metric in HIGHER_IS_BETTER or metric.startswith(_HIGHER_OF_EACH):
        return _text(max(present))
    if metric in LOWER_IS_BETTER or metric.startswith(_LOWER_OF_EACH):
        return _text(min(present))
    if metric.endswith(("_mse", "_mae", "_rmse")):
        return _text(min(present))
    return None


def _text(value: float | None) -> str:
    """Counts whole, others with four digits; nothing in scientific notation but the tiny."""
    if value is None:
        return ""
    if abs(value) > 1 and float(value).is_integer():
        return f"{value:.0f}"
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:#.4g}".rstrip(".")
    return f"{value:.0f}" if abs(value) >= 1e4 else f"{value:.3g}"


def _interval(metric: Mapping[str, float | None]) -> str:
    low, high = metric["ci_low"], metric["ci_high"]
    return "" if low is None or high is None else f"[{_text(low)}, {_text(high)}]"

"""Reports: one HTML file each, with its figures and styles inside, no script, no request."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from shared_runtime import charts
from shared_runtime.domain import Figure
from shared_runtime.results import results_table

if TYPE_CHECKING:
    import pandas as pd

MOST_ROWS = 12
"""Rows of a table that a report shows."""
HEADLINES = 4
"""Metrics that the index page shows of each run."""


@dataclass(frozen=True)
class Report:
    """What a report says; sections without content are left out."""

    domain: str
    model: str
    summary: str
    paper: str = ""
    disclaimer: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """A few headline numbers under the title."""
    text: str = ""
    """What the results come to, in plain words."""
    metrics: Mapping[str, Any] | None = None
    """Content of `metrics.json`."""
    figures: Sequence[Figure] = ()
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    history: pd.DataFrame | None = None
    explanations: Sequence[Figure] = ()
    explanation_tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    explanation_note: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    config: Mapping[str, Any] | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class IndexItem:
    """One domain on the page that `heed demo` writes; `error` where it did not finish."""

    domain: str
    model: str = ""
    summary: str = ""
    link: str = ""
    seconds: int = 0
    metrics: Mapping[str, Any] | None = None
    error: str = ""


def render(report: Report) -> str:
    """Return `report.html`."""
    training = [] if report.history is None else [_loss_figure(report.history)]
    return _page(
        "report.html",
        eyebrow=f"Heed · {report.domain}",
        title=report.model,
        summary=report.summary,
        paper=report.paper,
        disclaimer=report.disclaimer,
        facts=report.facts,
        text=report.text,
        results=None if report.metrics is None else results_table(report.metrics),
        scored="" if report.metrics is None else _scored(report.metrics),
        figures=_drawings(report.figures),
        tables=_tables(report.tables),
        training=_drawings(training),
        explanations=_drawings(report.explanations),
        explanation_tables=_tables(report.explanation_tables),
        explanation_note=report.explanation_note,
        data=_shown(report.data),
        command=report.command,
        config=None if report.config is None else _yaml(report.config),
        environment=_shown(report.environment),
    )


def render_index(title: str, summary: str, items: Sequence[IndexItem]) -> str:
    """Return `index.html`, which links the report of every item."""
    shown = [
        {
            "domain": item.domain,
            "model": item.model,
            "summary": item.summary,
            "link": item.link,
            "seconds": item.seconds,
            "error": item.error,
            "results": results_table(item.metrics, most=HEADLINES) if item.metrics else None,
            "scored": _scored(item.metrics) if item.metrics else "",
        }
        for item in items
    ]
    return _page("index.html", title=title, summary=summary, items=shown)


def _page(template: str, **values: Any) -> str:
    environment = Environment(
        loader=PackageLoader("shared_runtime"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["heading"] = _heading
    css = Markup(environment.get_template("style.css").render())
    return environment.get_template(template).render(css=css, **values)


def _heading(name: str) -> str:
    """Return the name of a column so that it can wrap; one-letter parts stay, as in `p_t`."""
    return re.sub(r"(?<=\w\w)_(?=\w\w)", " ", str(name))


def _loss_figure(history: pd.DataFrame) -> Figure:
    return Figure(
        "Loss over the epochs",
        "Training and validation loss; test data play no part in the selection.",
        charts.loss_curves(history),
    )


def _drawings(figures: Sequence[Figure]) -> list[dict[str, Any]]:
    return [
        {
            "title": figure.title.rstrip("."),
            "caption": figure.caption,
            "drawing": Markup(charts.embed(figure.figure)),
        }
        for figure in figures
    ]


def _tables(tables: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "columns": list(table.columns),
            "rows": [[_value(v) for v in row] for row in table.head(MOST_ROWS).itertuples(False)],
            "left_out": max(0, len(table) - MOST_ROWS),
        }
        for name, table in tables.items()
    }


def _shown(mapping: Mapping[str, Any]) -> dict[str, str]:
    return {str(key).replace("_", " "): _value(value) for key, value in mapping.items()}


def _value(value: Any) -> str:
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_value(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_value(item) for item in value)
    return "none" if value is None else str(value)


def _scored(metrics: Mapping[str, Any]) -> str:
    count = f"{metrics['n_scored']:,}".replace(",", " ")
    return f"{count} items of the {metrics['split']} part were scored, with seed {metrics['seed']}."


def _yaml(config: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True).rstrip()

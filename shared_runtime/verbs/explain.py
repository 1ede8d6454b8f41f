"""`explain`: pictures and tables of what a trained model attends to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shared_runtime import charts
from shared_runtime.domain import Domain
from shared_runtime.errors import UsageError
from shared_runtime.report import Report, render
from shared_runtime.run_folder import RunFolder
from shared_runtime.runs import open_run, prepare_again


def explain(
    domain: Domain,
    run: Path,
    *,
    data: Path | None = None,
    out: Path | None = None,
    device: str | None = None,
) -> list[Path]:
    """Write `explain.html`, one PNG per figure and one CSV per table; return the files.

    Args:
        domain: The domain.
        run: Folder of a finished run.
        data: Other data than the run's.
        out: Folder to write to; `explain` inside the run folder where it is None.
        device: Other device than the run's.

    Raises:
        UnsupportedError: The model has nothing to explain.
    """
    opened = open_run(domain, run, data=data, device=device)
    prepared = prepare_again(opened, other_data=data is not None)
    figures, tables = domain.explain(opened.loaded, prepared, device=opened.device)
    folder = RunFolder(out or run / "explain")
    spec = opened.loaded.spec
    page = Report(
        domain=domain.NAME,
        model=f"What {spec.name} attends to",
        summary=spec.summary,
        paper=spec.paper,
        disclaimer=domain.DISCLAIMER,
        explanations=figures,
        explanation_tables=tables,
        data=prepared.summary,
    )
    files = [folder.write_text("explain.html", render(page))]
    for figure in figures:
        files.append(folder.write_bytes(f"{_slug(figure.title)}.png", charts.png(figure.figure)))
    for name, table in tables.items():
        files.append(folder.write_frame(f"{_slug(name)}.csv", table))
    return files


def command(domain: Domain, values: Mapping[str, Any]) -> None:
    """Carry out the verb for the command line."""
    if values["run"] is None:
        raise UsageError("--run is needed: the folder of a trained model")
    files = explain(
        domain,
        values["run"],
        data=values["data"],
        out=values["out"],
        device=values["device"],
    )
    for path in files:
        print(path)


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "untitled"

"""`heed demo`: every installed domain on its own synthetic sample, and one page of reports."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared_runtime.console import guarded, say

if TYPE_CHECKING:
    from shared_runtime.domain import Domain
    from shared_runtime.report import IndexItem


def demo(domains: Mapping[str, Callable[[], Domain]], out: Path) -> list[IndexItem]:
    """Sample, train, predict and explain each domain, and write `index.html` after each.

    A domain that fails becomes an item with its error; the others go on.

    Args:
        domains: Name to a function that imports the domain.
        out: New folder, one subfolder per domain.

    Raises:
        UsageError: `out` exists and is not an empty folder.
    """
    from shared_runtime.errors import UsageError
    from shared_runtime.report import IndexItem, render_index
    from shared_runtime.run_folder import RunFolder

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {out}: exists and is not an empty folder; choose another")
    items: list[IndexItem] = []
    for number, (name, load) in enumerate(domains.items(), start=1):
        say(f"[{number}/{len(domains)}] {name}")
        try:
            items.append(_one(load(), out / name))
        except Exception as error:
            line = " ".join(f"{type(error).__name__}: {error}".split())
            say(f"  failed: {line}")
            items.append(IndexItem(name, error=line))
        summary = "Each domain trained briefly on synthetic data in its field's own format."
        page = render_index("Demonstration", summary, items)
        RunFolder(out).write_text("index.html", page)
    return items


def command(
    out: Annotated[Path, typer.Option("--out", help="New folder.")] = Path("demo"),
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Train every installed domain briefly on synthetic data and write one page of reports."""
    with guarded("all", {"debug": debug}):
        from shared_runtime.discovery import domains, load_domain
        from shared_runtime.errors import HeedError

        found = {name: partial(load_domain, name) for name in domains()}
        if not found:
            raise HeedError("no domain is installed: pip install 'heed[all]'")
        items = demo(found, out)
        print(out / "index.html")
        failed = [item.domain for item in items if item.error]
        if failed:
            raise HeedError(f"failed: {', '.join(failed)}")


def _one(domain: Domain, out: Path) -> IndexItem:
    from shared_runtime.options import find_model, resolve
    from shared_runtime.report import IndexItem
    from shared_runtime.run_folder import RunFolder
    from shared_runtime.samples import sample_path
    from shared_runtime.verbs.explain import explain
    from shared_runtime.verbs.predict import predict, write_files
    from shared_runtime.verbs.sample import sample
    from shared_runtime.verbs.train import train

    start = time.monotonic()
    sample(domain, out / "sample")
    spec = find_model(domain, domain.DEMO["model"])
    data = sample_path(domain, spec, out / "sample")
    say(f"  training {spec.name}")
    flags = {"data.path": data, "model.name": spec.name}
    config = resolve(domain, flags=flags, sets=domain.DEMO["set"])
    result = train(domain, config, out / "run")
    say("  predicting and explaining")
    item = domain.items(data, "*")[0] if data.is_dir() else data
    prediction = predict(domain, result.folder, item)
    RunFolder(out).write_frame("predictions.csv", prediction.table)
    write_files(out / "predictions", prediction)
    if spec.attention is not None:
        explain(domain, result.folder, out=out / "explain")
    return IndexItem(
        domain.NAME,
        model=spec.name,
        summary=spec.summary,
        link=f"{domain.NAME}/run/report.html",
        seconds=round(time.monotonic() - start),
        metrics=result.metrics,
    )

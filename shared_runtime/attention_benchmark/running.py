"""Measuring many cells, each in a process of its own, under limits."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import Any

from shared_runtime.attention_benchmark.cells import PASSES, Cell, Settings

START_SECONDS = 300.0
"""For a process to be ready to measure; by far enough to import PyTorch."""
Rows = list[dict[str, Any]]


def run(
    cells: Sequence[Cell],
    settings: Settings,
    rows: Rows,
    *,
    save: Callable[[Rows], object] = lambda rows: None,
    tell: Callable[[str], object] = lambda line: None,
) -> Rows:
    """Measure what is not yet in `rows`; what outgrew a limit is not tried at longer lengths.

    Args:
        cells: In the order in which they are measured; see `cells.plan`.
        settings: What they share.
        rows: Rows measured before; see `cells.COLUMNS`.
        save: Called with all rows after each cell.
        tell: Called with a line for each row.

    Returns:
        All rows, those of before first.
    """
    context = _context()
    rows = list(rows)
    done = {(*_key(row), row["length"]) for row in rows}
    stopped = {_key(row): row for row in rows if row["status"] in ("time", "memory")}
    for number, cell in enumerate(cells, 1):
        left = [n for n in PASSES if (cell.mechanism, cell.mask, n, cell.length) not in done]
        for found in _cell(cell, settings, left, stopped, context):
            row = _identity(cell, found.pop("pass")) | found
            rows.append(row)
            if row["status"] in ("time", "memory"):
                stopped.setdefault(_key(row), row)
            tell(f"[{number}/{len(cells)}] {described(row)}")
        if left:
            save(rows)
    return rows


def described(row: Mapping[str, Any]) -> str:
    """Say in a line what was found for a cell and pass."""
    where = f"{row['mechanism']} {row['mask']} {row['length']:,} {row['pass']}"
    if row["status"] != "ok":
        return f"{where}: {row['status']} ({row['detail']})"
    ratio = row.get("baseline_seconds")
    than = f", {ratio / row['seconds']:.2f} of {row['baseline']}'s speed" if ratio else ""
    return f"{where}: {1e3 * row['seconds']:.1f} ms{than}"


def _cell(
    cell: Cell,
    settings: Settings,
    passes: Sequence[str],
    stopped: Mapping[tuple[str, ...], Mapping[str, Any]],
    context: BaseContext,
) -> Iterator[dict[str, Any]]:
    """Yield a dict for each pass, those that cannot fit without trying."""
    fit: list[str] = []
    for name in passes:
        before = stopped.get((cell.mechanism, cell.mask, name))
        if before is None:
            fit.append(name)
        else:
            detail = before["detail"]
            if before["length"] != cell.length and not detail.startswith("not tried"):
                detail = f"not tried: {before['length']:,} did not fit"
            yield {"pass": name, "status": before["status"], "detail": detail}
    groups: dict[bool, list[str]] = {}
    for name in fit:
        groups.setdefault((cell.baseline, cell.mask, name) not in stopped, []).append(name)
    for beside, names in groups.items():
        found = _measured(cell, settings, names, beside, context)
        yield from ({"pass": name} | one for name, one in zip(names, found, strict=True))


def _measured(
    cell: Cell, settings: Settings, passes: Sequence[str], beside: bool, context: BaseContext
) -> Iterator[dict[str, Any]]:
    from shared_runtime.attention_benchmark.worker import serve

    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(  # type: ignore[attr-defined]
        target=serve, args=(theirs, cell, settings, tuple(passes), beside), daemon=True
    )
    process.start()
    theirs.close()
    try:
        ended = None if "status" not in (first := _receive(ours, START_SECONDS)) else first
        for _ in passes:
            if ended is None:
                found = _receive(ours, settings.limit_seconds)
                ended = found if found.pop("ended", False) else None
            else:
                found = ended
            if found["status"] == "failed" and not found.get("detail"):
                process.join(5)
                found |= _death(process.exitcode)
            yield dict(found)
    finally:
        process.kill()
        process.join()
        ours.close()


def _receive(pipe: Connection, seconds: float) -> dict[str, Any]:
    """Wait for what the process sends; `ended` where nothing more will come."""
    try:
        if pipe.poll(seconds):
            return dict(pipe.recv())
    except EOFError:
        return {"status": "failed", "detail": "", "ended": True}
    return {"status": "time", "detail": f"over {seconds:g} s", "ended": True}


def _death(code: int | None) -> dict[str, str]:
    if code == -9:
        return {"status": "memory", "detail": "killed by the system, as when memory runs out"}
    return {"status": "failed", "detail": f"its process ended with code {code}"}


def _identity(cell: Cell, name: str) -> dict[str, Any]:
    from shared_runtime.attention_benchmark.worker import kind_of

    return {
        "mechanism": cell.mechanism,
        "family": cell.family,
        "mask": cell.mask,
        "length": cell.length,
        "pass": name,
        "baseline": cell.baseline,
        "error_kind": kind_of(cell),
        "detail": "",
    }


def _key(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (row["mechanism"], row["mask"], row["pass"])


def _context() -> BaseContext:
    """Processes forked from one that has imported everything and done nothing, where possible."""
    if "forkserver" not in multiprocessing.get_all_start_methods() or os.name != "posix":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["shared_runtime.attention_benchmark.worker"])
    return context

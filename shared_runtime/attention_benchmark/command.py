"""`heed attention benchmark` from Python: measure, write the table and its pictures."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from shared_attention import catalogue
from shared_runtime.attention_benchmark.cells import COLUMNS, Settings, plan
from shared_runtime.attention_benchmark.crossover import crossovers
from shared_runtime.attention_benchmark.running import Rows, run
from shared_runtime.devices import resolve_device
from shared_runtime.errors import UsageError
from shared_runtime.options import find_mechanism
from shared_runtime.run_folder import RunFolder

TABLE = "costs.csv"
TEXTS = ("mechanism", "family", "mask", "pass", "status", "detail", "baseline", "error_kind")
DTYPES = ("float32", "float64", "float16", "bfloat16")


def benchmark(
    names: Sequence[str] = (),
    lengths: Sequence[int] = (512, 1024, 2048, 4096),
    settings: Settings | None = None,
    *,
    out: Path | None = None,
    resume: bool = False,
    tell: Callable[[str], object] = lambda line: None,
) -> Rows:
    """Measure mechanisms beside fused softmax attention over lengths.

    Args:
        names: Mechanisms; every one of the catalogue where it is empty.
        lengths: Numbers of positions.
        settings: Shape, type, device and limits; see `Settings`.
        out: Folder for `costs.csv`, written after each cell, `crossovers.csv`, `speed.png`,
            `memory.png`, `config.yaml` and `environment.json`.
        resume: Go on with the rows in `out`.
        tell: Called with a line for each row.

    Returns:
        Rows with the keys `cells.COLUMNS`.

    Raises:
        UsageError: A mechanism is unknown, a number is not positive, the shape does not fit the
            device or type, or `out` holds a run that is not to be continued.
    """
    settings = settings or Settings()
    _check(lengths, settings)
    chosen = [find_mechanism(name) for name in names] or list(catalogue())
    cells = plan([catalogue()[name] for name in dict.fromkeys(chosen)], lengths)
    if out is None:
        return [_whole(row) for row in run(cells, settings, [], tell=tell)]
    config = {
        "command": "attention benchmark",
        "mechanisms": list(dict.fromkeys(chosen)),
        "lengths": sorted(set(lengths)),
        "settings": dataclasses.asdict(settings),
    }
    folder = RunFolder.create(out, config=config, resume=resume)

    def save(rows: Rows) -> None:
        folder.write_rows(TABLE, [_whole(row) for row in rows])

    before = read_rows(out / TABLE) if (out / TABLE).exists() else []
    rows = [_whole(row) for row in run(cells, settings, before, save=save, tell=tell)]
    save(rows)
    draw(rows, folder)
    folder.finish()
    return rows


def draw(rows: Rows, folder: RunFolder) -> None:
    """Write what a table comes to: crossover lengths and pictures."""
    from shared_runtime.attention_benchmark.pictures import memory_picture, speed_picture
    from shared_runtime.charts import png

    found = [
        {
            "mechanism": crossover.mechanism,
            "family": crossover.family,
            "mask": crossover.mask,
            "pass": crossover.pass_,
            "first_length": crossover.first,
            "last_length_before": crossover.below,
            "crossover": crossover.text,
        }
        for crossover in crossovers(rows)
    ]
    folder.write_rows("crossovers.csv", found)
    folder.write_bytes("speed.png", png(speed_picture(rows)))
    folder.write_bytes("memory.png", png(memory_picture(rows)))


def read_rows(path: Path) -> Rows:
    """Read a table, None where a cell is empty.

    Raises:
        UsageError: The file is no table of this command.
    """
    import csv

    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise UsageError(f"{path}: is no table of attention benchmark (no column {missing[0]})")
        return [{name: _value(name, row[name]) for name in COLUMNS} for row in reader]


def _value(name: str, text: str) -> Any:
    if name in TEXTS:
        return text
    if not text:
        return None
    return int(text) if name in ("length", "rounds") else float(text)


def default_limit(device: str) -> float:
    """Return half the memory of this machine, or most of the GPU's, in GiB."""
    if device == "cuda":
        return round(0.9 * torch.cuda.get_device_properties(0).total_memory / 2**30, 1)
    try:
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return Settings.limit_gib
    return round(pages / 2**31, 1)


def _check(lengths: Sequence[int], settings: Settings) -> None:
    if not lengths or min(lengths) < 1:
        raise UsageError("--lengths: expected positive integers")
    for name in ("batch", "heads", "head_dim", "threads", "rounds", "limit_seconds", "limit_gib"):
        if getattr(settings, name) <= 0:
            raise UsageError(f"--{name.replace('_', '-')}: expected a positive number")
    if settings.dtype not in DTYPES:
        raise UsageError(f"--dtype {settings.dtype}: expected one of {', '.join(DTYPES)}")
    resolve_device(settings.device)


def _whole(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row.get(name) for name in COLUMNS}

"""Many files, one manifest: restartable, and one bad file never stops the others."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from shared_runtime.errors import HeedError, UsageError
from shared_runtime.run_folder import RunFolder

MANIFEST = "manifest.json"
FAILURES = "failures.csv"
SECONDS_BETWEEN_MANIFESTS = 2.0

_log = logging.getLogger("heed.batch")


@dataclass(frozen=True)
class Item:
    """What became of one input file."""

    status: Literal["done", "failed"]
    sha256: str
    output: str | None
    error: str | None
    files: Sequence[str] = ()
    """Further files that were written for it."""


@dataclass(frozen=True)
class BatchResult:
    """Counts of one pass, and the error line of each failed file."""

    done: int
    skipped: int
    failures: Mapping[str, str]


def files_in(folder: Path, pattern: str) -> list[Path]:
    """Return the files of a folder that match, hidden ones left out, sorted."""
    return sorted(p for p in folder.glob(pattern) if p.is_file() and not p.name.startswith("."))


def run_batch(
    inputs: Sequence[Path],
    out: Path,
    work: Callable[[Path, str], Sequence[str]],
    *,
    made_with: str,
    suffix: str,
    parts: Callable[[Path], Sequence[Path]] | None = None,
    root: Path | None = None,
    overwrite: bool = False,
) -> BatchResult:
    """Call `work(input, output name)` for each file that is not done yet.

    A file is done when the manifest says so, none of its parts nor `made_with` has changed since,
    and its outputs are there. The manifest is written while the work goes on, so a pass that was
    killed continues where it stopped.

    Args:
        inputs: Input files, or folders that are one item each.
        out: Folder of the outputs, `manifest.json` and `failures.csv`.
        work: Writes `out / name` whole or raises; returns the names of further files it wrote.
        made_with: What the outputs depend on besides their input, such as a model's hash.
        suffix: Added to an input's name to name its output.
        parts: Every file that an input consists of. None: the file itself, or all in a folder.
        root: The folder that inputs lie below: they are named by their path in it, so that equal
            names in several folders stay apart. None: all have distinct names of their own.
        overwrite: Do the work again for files that are done.

    Raises:
        UsageError: `out` holds a manifest that is not one of a batch, or `work` raised it: a
            setting is wrong, and would be for every file.
    """
    folder = RunFolder(out)
    items = {} if overwrite else _finished(out, made_with)
    done = skipped = 0
    written = time.monotonic()
    try:
        for number, path in enumerate(inputs, start=1):
            item = _named(path, root)
            name = f"{item}{suffix}"
            digest, before = _digest(path, parts), items.get(item)
            if before and before.sha256 == digest and _all_there(out, name, before):
                skipped += 1
                continue
            items[item] = _attempt(path, name, digest, work)
            done += items[item].status == "done"
            _log.info("%d of %d: %s %s", number, len(inputs), item, items[item].status)
            if time.monotonic() - written > SECONDS_BETWEEN_MANIFESTS:
                _write(folder, items, made_with)
                written = time.monotonic()
    finally:
        if items:
            _write(folder, items, made_with)
    failures = {name: item.error for name, item in items.items() if item.error is not None}
    folder.write_text(FAILURES, _csv(failures))
    return BatchResult(done, skipped, failures)


def _named(path: Path, root: Path | None) -> str:
    if path == root:
        return path.resolve().name
    return path.relative_to(root).as_posix() if root else path.name


def _all_there(out: Path, name: str, item: Item) -> bool:
    return all((out / file).is_file() for file in (name, *item.files))


def _attempt(
    path: Path, name: str, digest: str, work: Callable[[Path, str], Sequence[str]]
) -> Item:
    try:
        files = work(path, name)
    except UsageError:
        raise
    except HeedError as error:
        return Item("failed", digest, None, _line(str(error)))
    except Exception as error:
        _log.debug("%s", path, exc_info=True)
        return Item("failed", digest, None, _line(f"{type(error).__name__}: {error}"))
    return Item("done", digest, name, None, tuple(files))


def _finished(out: Path, made_with: str) -> dict[str, Item]:
    path = out / MANIFEST
    if not path.exists():
        return {}
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        items = {name: Item(**item) for name, item in manifest["items"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"{path}: is no manifest of a batch; choose another --out, or remove it"
        raise UsageError(message) from error
    if manifest["made_with"] != made_with:
        return {}
    return {name: item for name, item in items.items() if item.status == "done"}


def _write(folder: RunFolder, items: Mapping[str, Item], made_with: str) -> None:
    listed = {name: asdict(item) for name, item in items.items()}
    folder.write_json(MANIFEST, {"made_with": made_with, "items": listed})


def _csv(failures: Mapping[str, str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "error"])
    writer.writerows(failures.items())
    return text.getvalue()


def _digest(path: Path, parts: Callable[[Path], Sequence[Path]] | None) -> str:
    """Hash an item; "" where it cannot be read, which `work` will say."""
    try:
        if parts is not None:
            files = list(parts(path))
        else:
            files = files_in(path, "**/*") if path.is_dir() else [path]
        if files == [path]:
            return _content(path)
        above = path if path.is_dir() else path.parent
        named = [f"{os.path.relpath(file, above)} {_content(file)}" for file in files]
    except OSError:
        return ""
    return hashlib.sha256(os.fsencode("\n".join(named))).hexdigest()


def _content(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _line(text: str) -> str:
    return " ".join(text.split())

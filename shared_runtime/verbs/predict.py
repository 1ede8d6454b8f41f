"""`predict`: apply a trained model to one file, or to every item of a folder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from shared_runtime.artifact import MANIFEST
from shared_runtime.batch import FAILURES, BatchResult, run_batch
from shared_runtime.domain import Domain, Prediction
from shared_runtime.errors import BatchFailures, DataError, UsageError
from shared_runtime.run_folder import RunFolder
from shared_runtime.runs import OpenedRun, open_run

TABLES = (".csv", ".parquet")
SUFFIX = ".predictions.csv"
"""Added to an item's name to name its table in a folder of predictions."""


def predict(
    domain: Domain,
    run: Path,
    data: Path,
    *,
    device: str | None = None,
    flags: Mapping[str, Any] | None = None,
    sets: Sequence[str] = (),
) -> Prediction:
    """Predict for one item in the field's own format.

    Args:
        domain: The domain.
        run: Folder of a finished run.
        data: The item.
        device: Other device than the run's.
        flags: Dotted keys of the `data` section that prediction follows.
        sets: `key=value` strings for the same.

    Raises:
        DataError: The item is missing or cannot be used.
        UsageError: A setting is none that prediction follows.
    """
    return _predict(_open(domain, run, device=device, flags=flags or {}, sets=sets), data)


def predict_folder(
    domain: Domain,
    run: Path,
    data: Path,
    out: Path,
    *,
    pattern: str = "*",
    overwrite: bool = False,
    device: str | None = None,
    flags: Mapping[str, Any] | None = None,
    sets: Sequence[str] = (),
) -> BatchResult:
    """Predict for every item of a folder; see :func:`shared_runtime.batch.run_batch`.

    Where items lie in several folders, what is written for one lies in folders of the same names
    in `out`.

    Raises:
        UsageError: `out` is the input folder or a file, or a setting does not fit the model.
        DataError: No item matches `pattern`.
    """
    if out.resolve() == data.resolve() or out.is_file():
        raise UsageError(f"--out {out}: expected a folder other than --data")
    inputs = domain.items(data, pattern)
    if not inputs:
        raise DataError(f"{data}: nothing in it to predict for matches {pattern}; see --pattern")
    opened = _open(domain, run, device=device, flags=flags or {}, sets=sets)
    written: dict[str, Path] = {}
    parents = {path.parent for path in inputs}

    def work(path: Path, name: str) -> list[str]:
        found, above = _predict(opened, path), Path(name).parent
        files = {(above / file).as_posix(): write for file, write in found.files.items()}
        prediction = Prediction(found.table, files)
        for file in prediction.files:
            other = written.setdefault(file, path)
            if other != path:
                raise DataError(f"{path}: its {file} would replace that of {other}; rename one")
        write_files(out, prediction)
        RunFolder(out).write_frame(name, prediction.table)
        return list(prediction.files)

    return run_batch(
        inputs,
        out,
        work,
        made_with=_made_with(opened),
        suffix=SUFFIX,
        parts=domain.item_files,
        root=parents.pop() if len(parents) == 1 else data,
        overwrite=overwrite,
    )


def write_files(folder: Path, prediction: Prediction) -> None:
    """Write the files of a prediction below `folder`, each whole or not at all.

    Until it is whole, a file keeps its own name, which tells libraries its format, in a hidden
    folder.
    """
    for name, write in prediction.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=path.parent, prefix=".partial-") as hidden:
            write(Path(hidden) / path.name)
            (Path(hidden) / path.name).replace(path)


def command(domain: Domain, values: Mapping[str, Any]) -> None:
    """Carry out the verb for the command line."""
    run, data, out = values["run"], values["data"], values["out"]
    if run is None or data is None:
        raise UsageError("--run and --data are needed: a trained model and what to predict for")
    changes = {"device": values["device"], "flags": values["flags"], "sets": values["set"] or []}
    if data.is_dir():
        if out is None:
            raise UsageError("--out is needed: the folder for the predictions")
        result = predict_folder(
            domain,
            run,
            data,
            out,
            pattern=values["pattern"],
            overwrite=values["overwrite"],
            **changes,
        )
        failed = len(result.failures)
        print(f"{result.done} done, {result.skipped} already done, {failed} failed: {out}")
        if failed:
            raise BatchFailures(f"{failed} files failed, listed in {out / FAILURES}")
        return
    _check_out(domain, out)
    prediction = predict(domain, run, data, **changes)
    if out is None:
        prediction.table.to_csv(sys.stdout, index=False)
        return
    for path in _write(out, prediction, f"{data.resolve().name}{SUFFIX}"):
        print(path)


def _check_out(domain: Domain, out: Path | None) -> None:
    if out is None or out.name.endswith((*TABLES, *domain.PREDICTS)):
        return
    if domain.PREDICTS and (out.is_dir() or not out.suffix):
        return
    expected = ", ".join([*domain.PREDICTS, *TABLES])
    folder = ", or a folder" if domain.PREDICTS else ""
    raise UsageError(f"--out {out}: expected a file that ends in one of {expected}{folder}")


def _write(out: Path, prediction: Prediction, table: str) -> list[Path]:
    """Write a table, the main file, or everything into a folder, as `out` ends."""
    if out.suffix in TABLES:
        return [RunFolder(out.parent).write_frame(out.name, prediction.table)]
    if out.suffix and not out.is_dir():
        main = next(iter(prediction.files))
        ending = "".join(Path(main).suffixes)
        if not out.name.endswith(ending):
            raise UsageError(f"--out {out}: expected a name that ends in {ending} for this input")
        renamed = Prediction(prediction.table, {out.name: prediction.files[main]})
        write_files(out.parent, renamed)
        return [out]
    write_files(out, prediction)
    RunFolder(out).write_frame(table, prediction.table)
    return [out / name for name in (*prediction.files, table)]


def _open(
    domain: Domain,
    run: Path,
    *,
    device: str | None,
    flags: Mapping[str, Any],
    sets: Sequence[str],
) -> OpenedRun:
    given = [key for key, value in flags.items() if value is not None]
    given += [pair.partition("=")[0] for pair in sets]
    followed = [f"data.{name}" for name in domain.PREDICT_SETTINGS]
    for key in given:
        if key not in followed:
            able = f"it follows {', '.join(followed)}" if followed else "a trained model is fixed"
            raise UsageError(f"{key}: predict does not follow this setting; {able}")
    return open_run(domain, run, device=device, flags=flags, sets=sets)


def _predict(opened: OpenedRun, path: Path) -> Prediction:
    if not path.exists():
        raise DataError(f"{path}: no such file")
    return opened.domain.predict(
        opened.loaded,
        path,
        data=opened.config.data,
        batch_size=opened.batch_size,
        device=opened.device,
    )


def _made_with(opened: OpenedRun) -> str:
    """Hash the model and the settings that decide its predictions."""
    data = dataclasses.asdict(opened.config.data)
    settings = {name: str(data[name]) for name in opened.domain.PREDICT_SETTINGS}
    model = (opened.folder / MANIFEST).read_bytes()
    return hashlib.sha256(model + json.dumps(settings).encode()).hexdigest()

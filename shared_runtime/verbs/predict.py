"""`predict`: apply a trained model to one file, or to every file of a folder."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared_runtime.artifact import MANIFEST
from shared_runtime.batch import FAILURES, BatchResult, run_batch
from shared_runtime.domain import Domain
from shared_runtime.errors import BatchFailures, DataError, UsageError
from shared_runtime.run_folder import RunFolder
from shared_runtime.runs import OpenedRun, open_run

if TYPE_CHECKING:
    import pandas as pd


def predict(domain: Domain, run: Path, data: Path, *, device: str | None = None) -> pd.DataFrame:
    """Predict for one file in the field's own format.

    Raises:
        DataError: The file is missing or cannot be used.
    """
    return _predict(open_run(domain, run, device=device), data)


def predict_folder(
    domain: Domain,
    run: Path,
    data: Path,
    out: Path,
    *,
    pattern: str = "*",
    overwrite: bool = False,
    device: str | None = None,
) -> BatchResult:
    """Predict for every item of a folder; see :func:`shared_runtime.batch.run_batch`.

    Raises:
        UsageError: `out` is the input folder or a file.
        DataError: No file matches `pattern`.
    """
    if out.resolve() == data.resolve() or out.is_file():
        raise UsageError(f"--out {out}: expected a folder other than --data")
    inputs = domain.items(data, pattern)
    if not inputs:
        raise DataError(f"{data}: nothing in it to predict for matches {pattern}; see --pattern")
    opened = open_run(domain, run, device=device)

    def work(path: Path, name: str) -> None:
        RunFolder(out).write_frame(name, _predict(opened, path))

    return run_batch(
        inputs,
        out,
        work,
        made_with=hashlib.sha256((run / MANIFEST).read_bytes()).hexdigest(),
        suffix=".predictions.csv",
        overwrite=overwrite,
    )


def command(domain: Domain, values: Mapping[str, Any]) -> None:
    """Carry out the verb for the command line."""
    run, data, out = values["run"], values["data"], values["out"]
    if run is None or data is None:
        raise UsageError("--run and --data are needed: a trained model and what to predict for")
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
            device=values["device"],
        )
        failed = len(result.failures)
        print(f"{result.done} done, {result.skipped} already done, {failed} failed: {out}")
        if failed:
            raise BatchFailures(f"{failed} files failed, listed in {out / FAILURES}")
        return
    if out is not None and out.suffix not in (".csv", ".parquet"):
        raise UsageError(f"--out {out}: expected a file that ends in .csv or .parquet")
    frame = predict(domain, run, data, device=values["device"])
    if out is None:
        frame.to_csv(sys.stdout, index=False)
        return
    RunFolder(out.parent).write_frame(out.name, frame)
    print(out)


def _predict(opened: OpenedRun, path: Path) -> pd.DataFrame:
    if not path.exists():
        raise DataError(f"{path}: no such file")
    return opened.domain.predict(
        opened.loaded, path, batch_size=opened.batch_size, device=opened.device
    )

"""`evaluate`: score a trained model, on its own data or on other data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shared_runtime.domain import Domain, Evaluation
from shared_runtime.errors import UsageError
from shared_runtime.results import metrics_document, table_text, written
from shared_runtime.run_folder import RunFolder
from shared_runtime.runs import open_run, prepare_again

LARGEST_CSV = 100_000
"""Rows above which predictions are written as Parquet."""


def evaluate(
    domain: Domain,
    run: Path,
    *,
    data: Path | None = None,
    split: str = "test",
    out: Path | None = None,
    device: str | None = None,
    flags: Mapping[str, Any] | None = None,
    sets: Sequence[str] = (),
) -> dict[str, Any]:
    """Score every item of a split beside the baselines; return a `metrics.json` document.

    Args:
        domain: The domain.
        run: Folder of a finished run.
        data: Other data, prepared with the scalers the model was trained with.
        split: "test" or "val".
        out: New folder for `metrics.json` and `predictions.*`; nothing is written without it.
        device: Other device than the run's.
        flags: Dotted keys of the `data` section.
        sets: `key=value` strings for the `data` section.
    """
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {out}: exists and is not an empty folder; choose another")
    opened = open_run(domain, run, data=data, device=device, flags=flags, sets=sets)
    prepared = prepare_again(opened, other_data=data is not None)
    evaluation = domain.evaluate(
        opened.loaded,
        prepared,
        split,
        batch_size=opened.batch_size,
        device=opened.device,
        seed=opened.config.seed,
    )
    baselines = domain.baselines(prepared, split)
    name = opened.loaded.spec.name
    document = metrics_document(name, split, evaluation, opened.config.seed, baselines)
    if out is not None:
        folder = RunFolder(out)
        write_evaluation(folder, evaluation)
        folder.write_json("metrics.json", written(document))
    return document


def write_evaluation(folder: RunFolder, evaluation: Evaluation) -> None:
    """Write the predictions, as CSV or, where they are many, as Parquet, and further tables."""
    suffix = "csv" if len(evaluation.predictions) <= LARGEST_CSV else "parquet"
    folder.write_frame(f"predictions.{suffix}", evaluation.predictions)
    for name, table in evaluation.files.items():
        folder.write_frame(name, table)


def command(domain: Domain, values: Mapping[str, Any]) -> None:
    """Carry out the verb for the command line."""
    if values["run"] is None:
        raise UsageError("--run is needed: the folder of a trained model")
    document = evaluate(
        domain,
        values["run"],
        data=values["data"],
        split=values["split"],
        out=values["out"],
        device=values["device"],
        flags=values["flags"],
        sets=values["set"] or [],
    )
    print(table_text(document))

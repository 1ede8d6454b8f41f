"""`train`: check, prepare, fit, score beside baselines, and write the run folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from shared_attention import UnsupportedError
from shared_runtime.artifact import load_model, save_model
from shared_runtime.building import Built, build
from shared_runtime.checks import require_clean
from shared_runtime.devices import resolve_device
from shared_runtime.domain import Domain, Evaluation, Figure, LoadedModel, Prepared
from shared_runtime.errors import HeedError, UsageError
from shared_runtime.options import RunConfig, find_model, resolve
from shared_runtime.report import Report, render
from shared_runtime.results import metrics_document, table_text, written
from shared_runtime.run_folder import RunFolder
from shared_runtime.training import FitResult, fit
from shared_runtime.verbs.evaluate import write_evaluation

WRITTEN = (
    "config.yaml",
    "environment.json",
    "run.log",
    "history.csv",
    "last.ckpt",
    "model.safetensors",
    "model.json",
    "manifest.json",
    "metrics.json",
    "predictions.csv",
    "report.html",
)

_log = logging.getLogger("heed.train")


@dataclass(frozen=True)
class RunResult:
    """A finished run."""

    folder: Path
    metrics: Mapping[str, Any]
    """A `metrics_document`: content of `metrics.json`, and what is only shown."""
    evaluation: Evaluation
    loaded: LoadedModel


def train(
    domain: Domain,
    config: RunConfig,
    out: Path,
    *,
    resume: bool = False,
    progress: bool = True,
) -> RunResult:
    """Train a model on the training part, select on validation and score the test part.

    Args:
        domain: The domain.
        config: Resolved configuration; see :func:`shared_runtime.options.resolve`.
        out: Run folder, new or (with `resume`) interrupted.
        resume: Continue an interrupted run.
        progress: Show a progress bar where stderr is a terminal.

    Raises:
        DataError: The data failed their checks; the message lists every error.
        UsageError: The configuration does not fit the data, or `out` is taken.
        Interrupted: A signal stopped training; `resume=True` continues it.
    """
    prepared, built = _prepare(domain, config)
    folder = RunFolder.create(out, config=built.config.to_dict(), resume=resume)
    with folder.log():
        return _run(domain, folder, prepared, built, resume=resume, progress=progress)


def dry_run(domain: Domain, config: RunConfig) -> dict[str, Any]:
    """Do one batch forward and backward and write nothing; return what was seen."""
    prepared, built = _prepare(domain, config)
    device = resolve_device(config.device)
    task = domain.make_task(built.model, prepared, config.training).to(device)
    size = min(config.training.batch_size, len(prepared.train))
    batch = prepared.train.batch(np.arange(size, dtype=np.int64))
    loss = task.loss({name: value.to(device) for name, value in batch.items()})
    loss.backward()
    return {
        "model": built.config.model.name,
        "parameters": built.parameters,
        "batch": {name: list(value.shape) for name, value in batch.items()},
        "loss": float(loss.detach()),
        "data": dict(prepared.summary),
    }


def command(domain: Domain, values: Mapping[str, Any]) -> None:
    """Carry out the verb for the command line."""
    out: Path | None = values["out"]
    file = values["config"]
    if values["resume"]:
        if out is None:
            raise UsageError("--resume needs --out: the folder of the interrupted run")
        if file is None and (out / "config.yaml").is_file():
            file = out / "config.yaml"
    config = resolve(domain, config=file, flags=_flags(values), sets=values["set"] or [])
    out = out or _free_folder(domain, config)
    if values["dry_run"]:
        for key, value in dry_run(domain, config).items():
            print(f"{key}: {value}")
        print(f"would write to {out}: {', '.join(WRITTEN)}")
        return
    result = train(domain, config, out, resume=values["resume"], progress=not values["quiet"])
    print(table_text(result.metrics))
    print(f"report: {result.folder / 'report.html'}")
    if domain.DISCLAIMER:
        print(domain.DISCLAIMER)


def _flags(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "data.path": values["data"],
        "model.name": values["model"],
        "attention.name": values["attention"],
        "seed": values["seed"],
        "device": values["device"],
        **values["flags"],
    }


def _free_folder(domain: Domain, config: RunConfig) -> Path:
    names = (Path("runs") / f"{domain.NAME}-{config.model.name}-{n}" for n in count(1))
    return next(path for path in names if not path.exists())


def _prepare(domain: Domain, config: RunConfig) -> tuple[Prepared, Built]:
    require_clean(domain, config.data)
    spec = find_model(domain, str(config.model.name))
    prepared = domain.prepare(config.data, spec=spec, seed=config.seed)
    return prepared, build(spec, config, prepared.model_arguments)


def _run(
    domain: Domain,
    folder: RunFolder,
    prepared: Prepared,
    built: Built,
    *,
    resume: bool,
    progress: bool,
) -> RunResult:
    config = built.config
    name = str(config.model.name)
    device = resolve_device(config.device)
    batch_size = config.training.eval_batch_size or config.training.batch_size
    _log.info("%s: %d parameters, %s", name, built.parameters, device)
    fitted = fit(
        domain.make_task(built.model, prepared, config.training),
        prepared,
        config.training,
        folder,
        seed=config.seed,
        device=device,
        resume=resume,
        progress=progress,
    )
    built.model.to(device).eval()
    loaded_once = domain.models()[name].new_only
    calibrated = domain.calibrate(built.model, prepared, batch_size=batch_size, device=device)
    save_model(
        folder,
        domain=domain.NAME,
        name=name,
        arguments={k: v for k, v in built.arguments.items() if k not in loaded_once},
        attention=built.attention,
        preprocessing={**prepared.preprocessing, **calibrated},
        model=built.model,
        data_hash=prepared.data_hash,
    )
    loaded = load_model(folder.path, domain.models(), domain=domain.NAME, device=device)
    _log.info("scoring the test part")
    evaluation = domain.evaluate(
        loaded, prepared, "test", batch_size=batch_size, device=device, seed=config.seed
    )
    baselines = domain.baselines(prepared, "test")
    document = metrics_document(name, "test", evaluation, config.seed, baselines)
    write_evaluation(folder, evaluation)
    folder.write_json("metrics.json", written(document))
    report = _report(domain, folder, prepared, built, fitted, loaded, evaluation, document)
    folder.write_text("report.html", render(report))
    folder.finish()
    return RunResult(folder.path, document, evaluation, loaded)


def _report(
    domain: Domain,
    folder: RunFolder,
    prepared: Prepared,
    built: Built,
    fitted: FitResult,
    loaded: LoadedModel,
    evaluation: Evaluation,
    document: Mapping[str, Any],
) -> Report:
    explanations, tables, note = _explain(domain, loaded, prepared)
    environment = json.loads((folder.path / "environment.json").read_text("utf-8"))
    return Report(
        domain=domain.NAME,
        model=loaded.spec.name,
        summary=loaded.spec.summary,
        paper=loaded.spec.paper,
        disclaimer=domain.DISCLAIMER,
        facts={
            "parameters": f"{built.parameters:,}".replace(",", "\u2009"),
            "epochs": f"{fitted.selected_epoch} of {len(fitted.history)}",
            "items scored": f"{evaluation.n_scored:,}".replace(",", "\u2009"),
            "training time": f"{fitted.seconds:.3g} s",
            "seed": built.config.seed,
        },
        metrics=document,
        text=evaluation.text,
        figures=evaluation.figures,
        tables=evaluation.tables,
        history=pd.DataFrame(fitted.history),
        explanations=explanations,
        explanation_tables=tables,
        explanation_note=note,
        data=prepared.summary,
        command=f"heed {domain.NAME} train --config {folder.path / 'config.yaml'} --out NEW_FOLDER",
        config=built.config.to_dict(),
        environment={k: v for k, v in environment.items() if k not in ("command", "finished")},
    )


def _explain(
    domain: Domain, loaded: LoadedModel, prepared: Prepared
) -> tuple[list[Figure], Mapping[str, pd.DataFrame], str]:
    device = next((p.device for p in loaded.model.parameters()), torch.device("cpu"))
    try:
        figures, tables = domain.explain(loaded, prepared, device=device)
    except (HeedError, UnsupportedError) as error:
        return [], {}, f"Not shown for this model: {error}"
    return figures, tables, ""

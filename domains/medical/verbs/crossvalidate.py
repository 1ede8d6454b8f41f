"""`crossvalidate`: train every fold, score every case once, and say how to predict with all."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from domains.medical.folds import require_folds, with_one_grid
from domains.medical.scoring import summarise
from shared_runtime.domain import Domain
from shared_runtime.errors import BatchFailures, HeedError, Interrupted, UsageError
from shared_runtime.options import RunConfig, find_model, resolve
from shared_runtime.results import aligned, table_text, written
from shared_runtime.run_folder import RunFolder
from shared_runtime.verbs.train import train

SHOWN = ("dice", "iou", "hd95", "assd", "nsd", "volume_error")
_TEXT = {"case": str, "patient": str, "label": str, "present": str}

_log = logging.getLogger("heed.crossvalidate")


@dataclass(frozen=True)
class CrossValidation:
    """What became of the folds.

    Args:
        folder: holds `fold-0`, `fold-1`, ... (run folders), `summary.json` and `summary.csv`.
        document: content of `summary.json`: a `metrics.json` document over the cases of all
            finished folds, with `patients`, each fold's own scores (`folds`), the error line of
            each failed one (`failed`) and the runs to predict with (`ensemble`).
        cases: one row per case and label, with the fold that scored it.
    """

    folder: Path
    document: Mapping[str, Any]
    cases: pd.DataFrame

    @property
    def failed(self) -> Mapping[str, str]:
        """Error line of each fold that failed."""
        return self.document["failed"]


def crossvalidate(
    domain: Domain, config: RunConfig, out: Path, *, progress: bool = True
) -> CrossValidation:
    """Train a model on every fold and score all cases, each by the model that never saw it.

    The same call goes on where an earlier one stopped: finished folds are kept, an interrupted
    one resumes. A fold that fails is reported and the others go on; it is tried again by the next
    call. Spacing and patch size are planned on the training part of fold 0 for all folds, so that
    their models can be averaged; everything else is each fold's own.

    Args:
        domain: the medical domain.
        config: `data.folds` says how many there are; `data.fold` and `data.ensemble` are ignored.
        out: folder, new or of an unfinished cross-validation with the same configuration.
        progress: show progress bars where stderr is a terminal.

    Raises:
        DataError: the data cannot be split into folds.
        UsageError: the configuration does not fit, or `out` is taken.
        Interrupted: a signal stopped a fold; the same call continues it.
        HeedError: every fold failed; this is the first one's error.
    """
    if find_model(domain, str(config.model.name)).task == "retrieve":
        raise UsageError(f"{config.model.name} does not segment; cross-validation scores masks")
    whole = _whole(config, out)
    folder = RunFolder.create(out, config=whole.to_dict(), resume=True)
    folds = {f"fold-{number}": number for number in range(whole.data.folds)}
    errors: dict[str, Exception] = {}
    with folder.log():
        for name, number in folds.items():
            one = replace(whole, data=replace(whole.data, fold=number))
            error = _train(domain, one, out / name, progress)
            if error is not None:
                errors[name] = error
    finished = [name for name in folds if name not in errors]
    if not finished:
        first = next(iter(errors.values()))
        raise first if isinstance(first, HeedError) else HeedError(_line(first))
    result = _summary(whole, out, finished, {name: _line(e) for name, e in errors.items()})
    folder.write_frame("summary.csv", result.cases)
    folder.write_json("summary.json", written(result.document))
    if not errors:
        folder.finish()
    return result


def command(domain: Domain, values: Mapping[str, Any]) -> None:
    """Carry out the verb for the command line."""
    out: Path | None = values["out"]
    if out is None:
        raise UsageError("--out is needed: the folder for the runs of all folds")
    file = values["config"]
    if file is None and (out / "config.yaml").is_file():
        file = out / "config.yaml"
    flags = {
        "data.path": values["data"],
        "model.name": values["model"],
        "attention.name": values["attention"],
        "seed": values["seed"],
        "device": values["device"],
        **values["flags"],
    }
    config = resolve(domain, config=file, flags=flags, sets=values["set"] or [])
    result = crossvalidate(domain, config, out, progress=not values["quiet"])
    print(table_text(result.document))
    print(aligned(_by_fold(result.document)))
    print(f"cases: {out / 'summary.csv'}")
    first, *others = result.document["ensemble"]
    further = f" --ensemble {','.join(others)}" if others else ""
    print(
        f"predict with all: heed {domain.NAME} predict --run {first}{further} --data ... --out ..."
    )
    print(domain.DISCLAIMER)
    if result.failed:
        listed = "; ".join(f"{name}: {error}" for name, error in result.failed.items())
        raise BatchFailures(
            f"{len(result.failed)} of {len(result.failed) + 1 + len(others)} folds failed, the "
            f"same command tries them again: {listed}"
        )


def _whole(config: RunConfig, out: Path) -> RunConfig:
    """Return what all folds share; an earlier call's grid is kept, not planned again."""
    data = replace(config.data, fold=0, ensemble="")
    require_folds(data, config.seed)
    path = out / "config.yaml"
    if path.is_file():
        import yaml

        before = (yaml.safe_load(path.read_text("utf-8")) or {}).get("data", {})
        names = ("spacing", "patch_size")
        kept = {n: tuple(before.get(n, ())) for n in names if not getattr(data, n)}
        data = replace(data, **kept)
    return replace(config, data=with_one_grid(data, config.seed))


def _train(domain: Domain, config: RunConfig, folder: Path, progress: bool) -> Exception | None:
    """Train one fold unless it is finished; return what went wrong with it alone."""
    if RunFolder(folder).finished:
        _log.info("%s: already finished", folder.name)
        return None
    _log.info("%s of %d", folder.name, config.data.folds)
    try:
        train(domain, config, folder, resume=True, progress=progress)
    except Interrupted as error:
        message = f"interrupted in {folder.name}; the same command continues from there"
        raise Interrupted(message) from error
    except UsageError:
        raise
    except Exception as error:
        _log.warning("%s failed: %s", folder.name, _line(error))
        if not isinstance(error, HeedError) and (folder / "run.log").is_file():
            with (folder / "run.log").open("a", encoding="utf-8") as log:
                log.write(traceback.format_exc())
        return error
    return None


def _summary(
    config: RunConfig, out: Path, finished: Sequence[str], failed: Mapping[str, str]
) -> CrossValidation:
    frames = {name: _cases(out / name) for name in finished}
    cases = pd.concat([f.assign(fold=name.removeprefix("fold-")) for name, f in frames.items()])
    cases = cases[["case", "patient", "fold", *cases.columns.drop(["case", "patient", "fold"])]]
    patients = dict(zip(cases["case"], cases["patient"], strict=True))
    scores = cases.drop(columns=["patient", "fold"]).to_dict("records")
    rows = [{str(key): value for key, value in row.items()} for row in scores]
    metrics = summarise(rows, patients, seed=config.seed)
    documents = {
        name: json.loads((out / name / "metrics.json").read_text("utf-8")) for name in finished
    }
    document = {
        "model": config.model.name,
        "split": "all folds" if not failed else f"{len(finished)} of {config.data.folds} folds",
        "n_scored": sum(each["n_scored"] for each in documents.values()),
        "patients": len(set(patients.values())),
        "seed": config.seed,
        "metrics": {name: asdict(interval) for name, interval in metrics.items()},
        "baselines": _mean_baselines(list(documents.values())),
        "folds": {
            name: {
                "n_scored": each["n_scored"],
                **{key: metric["value"] for key, metric in each["metrics"].items()},
            }
            for name, each in documents.items()
        },
        "failed": dict(failed),
        "ensemble": [str((out / name).absolute()) for name in finished],
        "shown": [name for name in SHOWN if name in metrics],
    }
    return CrossValidation(out, document, cases.reset_index(drop=True))


def _cases(folder: Path) -> pd.DataFrame:
    """Return the scores of a fold's cases as it wrote them; ids and labels are no numbers."""
    if (folder / "predictions.parquet").is_file():
        return pd.read_parquet(folder / "predictions.parquet")
    path = folder / "predictions.csv"
    return pd.read_csv(path, dtype=_TEXT, keep_default_na=False, na_values=[""])


def _mean_baselines(documents: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean of each baseline's scores over the folds that have it, weighted by scored cases."""
    sums: dict[str, dict[str, tuple[float, int]]] = {}
    for document in documents:
        count = document["n_scored"]
        for name, scores in document["baselines"].items():
            kept = sums.setdefault(name, {})
            for score, value in scores.items():
                total, weight = kept.get(score, (0.0, 0))
                kept[score] = (total + count * value, weight + count)
    return {
        name: {score: total / weight for score, (total, weight) in kept.items()}
        for name, kept in sums.items()
    }


def _by_fold(document: Mapping[str, Any]) -> list[list[str]]:
    shown = document["shown"]
    lines = [["", "cases", *shown]]
    for name, scores in document["folds"].items():
        values = [scores.get(metric) for metric in shown]
        cells = ["" if value is None else f"{value:.4g}" for value in values]
        lines.append([name, str(scores["n_scored"]), *cells])
    return lines


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, HeedError) else f"{type(error).__name__}: {text}"

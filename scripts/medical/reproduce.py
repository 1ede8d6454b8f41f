"""Run the experiments of `experiments.yaml`, all with the same training time, into two CSV files.

    python scripts/medical/reproduce.py --data FOLDER --group hippocampus --runs DIR --out rows.csv

For each model the CPU time of a step is measured first; its epochs have as many patches as fit into
the group's `seconds`, so a cheap model sees more of them than a dear one. CPU time, summed over
threads, is what is shared out: it depends less than wall time on what else the machine does.
`--measure` only measures steps, of all models in turn, and keeps them in `--runs`: to be done while
the machine does nothing else, so that the shares are equal.
`rows.csv` gets one row per run and `rows_cases.csv` one per case and label. Runs in the file are
skipped and interrupted ones are continued, so a series can be stopped at any moment; several
processes may share it by `--name` and `--seed`. Nothing is selected: the last weights are scored.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import fcntl
import itertools
import json
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
import yaml

from domains.medical import domain
from shared_runtime.artifact import load_model
from shared_runtime.building import build
from shared_runtime.domain import Domain
from shared_runtime.options import RunConfig, find_model, resolve
from shared_runtime.run_folder import RunFolder
from shared_runtime.verbs.train import train

HERE = Path(__file__).parent
KEY = ("group", "name", "seed")
SCORES = ("dice", "iou", "hd95", "assd", "nsd", "volume_error")
MEDICAL = cast(Domain, domain)


def experiments(group: str) -> Iterator[dict[str, Any]]:
    """Yield every run of a group, seed by seed; a variant may have seeds of its own."""
    described = yaml.safe_load((HERE / "experiments.yaml").read_text(encoding="utf-8"))[group]
    runs = [
        (seed, variant)
        for variant in described["variants"]
        for seed in variant.get("seeds", described["seeds"])
    ]
    for seed, variant in sorted(runs, key=lambda run: run[0]):
        yield {
            "group": group,
            "name": variant["label"],
            "seed": seed,
            "model": variant["model"],
            "attention": variant.get("attention", False),
            "seconds": described["seconds"],
            "epochs": described["epochs"],
            "baselines": described.get("baselines", False),
            "set": [*described["set"], *variant.get("set", [])],
        }


def step_seconds(config: RunConfig, steps: int = 12) -> float:
    """Return the CPU seconds of a training step.

    The median over some steps, batches and their augmentation included, after two for warming up.
    """
    spec = find_model(MEDICAL, str(config.model.name))
    prepared = MEDICAL.prepare(config.data, spec=spec, seed=config.seed)
    built = build(spec, config, prepared.model_arguments)
    task = MEDICAL.make_task(built.model, prepared, config.training).train()
    optimizer = torch.optim.AdamW(task.parameters(), lr=1e-4)
    size, items = config.training.batch_size, len(prepared.train)
    mixed = config.training.precision == "bf16-mixed"
    taken = []
    for step in range(steps + 2):
        start = time.process_time()
        indices = (np.arange(size, dtype=np.int64) + step * size) % items
        batch = prepared.train.batch(indices)
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            loss = task.loss(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        taken.append(time.process_time() - start)
    return float(np.median(taken[2:]))


def configured(experiment: Mapping[str, Any], data: Path, *sets: str) -> RunConfig:
    """Return the configuration of one of `experiments` on the data set `data`."""
    flags = {
        "data.path": data,
        "model.name": experiment["model"],
        "seed": experiment["seed"],
        "device": "cpu",
    }
    return resolve(MEDICAL, flags=flags, sets=[*experiment["set"], *sets])


def measured(experiment: Mapping[str, Any], data: Path, runs: Path) -> float:
    """Return the CPU seconds of a variant's step: measured once, then read from a file in `runs`.

    Every seed of a variant has the same.
    """
    note = runs / f"{experiment['group']}-{experiment['name']}.json"
    if not note.exists():
        step = step_seconds(configured(experiment, data))
        runs.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps({"step_seconds": step}), encoding="utf-8")
    return float(json.loads(note.read_text(encoding="utf-8"))["step_seconds"])


def planned(experiment: Mapping[str, Any], data: Path, step: float) -> RunConfig:
    """Return a run's configuration, for steps of `step` CPU seconds."""
    epochs = experiment["epochs"]
    size = configured(experiment, data).training.batch_size
    patches = size * max(1, round(experiment["seconds"] / (step * epochs)))
    return configured(
        experiment, data, f"training.epochs={epochs}", f"data.patches_per_epoch={patches}"
    )


def run(
    experiment: Mapping[str, Any], data: Path, folder: Path
) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    """Train one experiment; return its row and those of baselines, and the scores of each case."""
    step = measured(experiment, data, folder.parent)
    config = planned(experiment, data, step)
    resumed, start = folder.exists(), time.process_time()
    if not RunFolder(folder).finished:
        train(MEDICAL, config, folder, resume=True, progress=False)
    cpu = "" if resumed else round(time.process_time() - start, 1)
    document = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    history = pd.read_csv(folder / "history.csv")
    key = {name: experiment[name] for name in KEY}
    row = key | {"attention": experiment["attention"]}
    for score, found in document["metrics"].items():
        if score.startswith(SCORES):
            row |= {score: found["value"], f"{score}_low": found.get("ci_low")}
            row[f"{score}_high"] = found.get("ci_high")
    row |= {
        "parameters": _parameters(folder),
        "planned_seconds": experiment["seconds"],
        "patches": len(history) * config.data.patches_per_epoch,
        "step_seconds": round(step, 4),
        "cpu_seconds": cpu,
        "seconds": round(float(history["seconds"].sum()), 1),
        "scored": document["n_scored"],
        "set": " ".join(experiment["set"]),
        "date": datetime.date.today().isoformat(),
        "versions": f"python {platform.python_version()}, torch {torch.__version__}",
    }
    rows = [row]
    if experiment["baselines"]:
        for baseline, values in document["baselines"].items():
            scores = {name: value for name, value in values.items() if name in row}
            rows.append({"group": experiment["group"], "name": baseline, "seed": ""} | scores)
    cases = pd.read_csv(folder / "predictions.csv")
    kept = [name for name in ("case", "patient", "label", "present", *SCORES) if name in cases]
    cases = cases[kept].round(5)
    for place, name in enumerate(KEY):
        cases.insert(place, name, experiment[name])
    return rows, cases


def _parameters(folder: Path) -> int:
    device = torch.device("cpu")
    loaded = load_model(folder, MEDICAL.models(), domain=MEDICAL.NAME, device=device)
    return sum(p.numel() for p in loaded.model.parameters())


def done(out: Path) -> set[tuple[str, ...]]:
    """Return the keys of the runs that `out` holds."""
    if not out.is_file():
        return set()
    with out.open(encoding="utf-8", newline="") as file:
        return {tuple(row[name] for name in KEY) for row in csv.DictReader(file)}


def append(out: Path, rows: Sequence[Mapping[str, Any]], cases: pd.DataFrame) -> None:
    """Add a run to both files, one process at a time; a baseline that is there is not repeated."""
    with out.open("a", encoding="utf-8", newline="") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        there = done(out)
        writer = csv.DictWriter(file, list(rows[0]), restval="")
        if not there:
            writer.writeheader()
        each = out.with_name(f"{out.stem}_cases.csv")
        cases.to_csv(each, mode="a", header=not each.exists(), index=False)
        for row in rows:
            if tuple(str(row[name]) for name in KEY) not in there:
                writer.writerow(row)


def main() -> None:
    """Run groups."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the hippocampus data")
    parser.add_argument("--group", required=True, action="append")
    parser.add_argument("--name", action="append", help="only these variants")
    parser.add_argument("--seed", type=int, action="append", help="only these seeds")
    parser.add_argument("--runs", type=Path, required=True, help="where run folders are kept")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, help="CPU seconds of each run, not the group's")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--measure", action="store_true", help="only the time of steps")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for experiment in itertools.chain.from_iterable(map(experiments, arguments.group)):
        key = tuple(str(experiment[name]) for name in KEY)
        left_out = any(
            wanted and experiment[name] not in wanted
            for name, wanted in (("name", arguments.name), ("seed", arguments.seed))
        )
        if left_out or key in done(arguments.out):
            continue
        experiment["seconds"] = arguments.seconds or experiment["seconds"]
        if arguments.measure:
            step = measured(experiment, arguments.data, arguments.runs)
            print(*key, f"{step:.4f} CPU s a step", flush=True)
            continue
        rows, cases = run(experiment, arguments.data, arguments.runs / "-".join(key))
        append(arguments.out, rows, cases)
        first = rows[0]
        print(*key, f"Dice {first['dice']:.4f}", f"{first['patches']} patches", flush=True)


if __name__ == "__main__":
    main()

"""Run the experiments of `experiments.yaml` and append one row each to a CSV file.

    python scripts/finance/reproduce.py --data FOLDER --group hour --out rows.csv

Experiments that are already in the file are skipped, so an interrupted series goes on where it
stopped, and several processes may share the work by `--label` and `--horizon`. Selection inside a
run looks at validation data only. Baselines are written once for each label and horizon.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import fcntl
import itertools
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
import yaml

from domains.finance import domain
from shared_runtime.domain import Domain
from shared_runtime.options import resolve
from shared_runtime.verbs.train import train

HERE = Path(__file__).parent
KEY = ("group", "label", "horizon", "name", "seed")
SCORES = ("macro_f1", "mcc", "accuracy", "p_t", "net_pnl", "gross_pnl", "log_loss", "ece", "trades")


def experiments(group: str) -> Iterator[dict[str, Any]]:
    """Yield every run of a group, horizon by horizon, so that baselines are fitted once."""
    described = yaml.safe_load((HERE / "experiments.yaml").read_text(encoding="utf-8"))[group]
    axes = (described[name] for name in ("labels", "horizons", "seeds", "variants"))
    for label, horizon, seed, variant in itertools.product(*axes):
        yield {
            "group": group,
            "label": label,
            "horizon": horizon,
            "name": variant["label"],
            "seed": seed,
            "model": variant["model"],
            "set": [
                *described["set"],
                *described.get("more", []),
                *variant.get("set", []),
            ],
        }


def run(experiment: dict[str, Any], data: Path) -> list[dict[str, Any]]:
    """Train one experiment in a temporary run folder; return its row and those of baselines."""
    flags = {
        "data.path": data,
        "data.label": experiment["label"],
        "data.horizon": experiment["horizon"],
        "model.name": experiment["model"],
        "seed": experiment["seed"],
        "device": "cpu",
    }
    finance = cast(Domain, domain)
    config = resolve(finance, flags=flags, sets=experiment["set"])
    with tempfile.TemporaryDirectory() as name:
        result = train(finance, config, Path(name) / "run", progress=False)
        with (result.folder / "history.csv").open(encoding="utf-8") as file:
            history = list(csv.DictReader(file))
    common = {name: experiment[name] for name in KEY[:3]}
    row = common | {"name": experiment["name"], "seed": experiment["seed"]}
    for score in SCORES:
        found = result.metrics["metrics"].get(score, {})
        row[score] = found.get("value")
        row[f"{score}_low"], row[f"{score}_high"] = found.get("ci_low"), found.get("ci_high")
    row |= {
        "val_loss": min(float(epoch["val_loss"]) for epoch in history),
        "epochs": len(history),
        "parameters": sum(p.numel() for p in result.loaded.model.parameters()),
        "seconds": round(sum(float(epoch["seconds"]) for epoch in history), 1),
        "scored": result.metrics["n_scored"],
        "set": " ".join(experiment["set"]),
        "date": datetime.date.today().isoformat(),
        "versions": f"python {platform.python_version()}, torch {torch.__version__}",
    }
    rows = [row]
    if experiment["seed"] == 0:
        for baseline, values in result.metrics["baselines"].items():
            scores = {score: values.get(score) for score in SCORES}
            rows.append(common | {"name": baseline, "seed": ""} | scores)
    return rows


def done(out: Path) -> set[tuple[str, ...]]:
    """Return the keys of the experiments that `out` holds."""
    if not out.is_file():
        return set()
    with out.open(encoding="utf-8", newline="") as file:
        return {tuple(row[name] for name in KEY) for row in csv.DictReader(file)}


def append(out: Path, rows: list[dict[str, Any]]) -> None:
    """Add rows to the file, one process at a time; a baseline that is there is not repeated."""
    with out.open("a", encoding="utf-8", newline="") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        there = done(out)
        writer = csv.DictWriter(file, list(rows[0]), restval="")
        if not there:
            writer.writeheader()
        for row in rows:
            if tuple(str(row[name]) for name in KEY) not in there:
                writer.writerow(row)


def main() -> None:
    """Run a group."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of LOBSTER pairs")
    parser.add_argument("--group", required=True, action="append")
    parser.add_argument("--label", action="append", help="only these labels")
    parser.add_argument("--horizon", type=int, action="append", help="only these horizons")
    parser.add_argument("--name", action="append", help="only these variants")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for experiment in itertools.chain.from_iterable(map(experiments, arguments.group)):
        chosen = all(
            not wanted or experiment[name] in wanted
            for name, wanted in vars(arguments).items()
            if name in ("label", "horizon", "name")
        )
        key = tuple(str(experiment[name]) for name in KEY)
        if not chosen or key in done(arguments.out):
            continue
        rows = run(experiment, arguments.data)
        append(arguments.out, rows)
        first = rows[0]
        print(
            *key, f"F1 {first['macro_f1']:.4f}", f"MCC {first['mcc']:.4f}", f"{first['seconds']} s"
        )


if __name__ == "__main__":
    main()

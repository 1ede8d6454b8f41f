"""Run the experiments of `experiments.yaml` and append one row each to a CSV file.

    python scripts/forecasting/reproduce.py --data DIR --group default --out rows.csv

Experiments that are already in the file are skipped, so an interrupted series goes on where it
stopped. Selection inside a run looks at validation data only.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import itertools
import json
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
import yaml

from domains.forecasting import domain
from shared_runtime.domain import Domain
from shared_runtime.options import resolve
from shared_runtime.verbs.evaluate import evaluate
from shared_runtime.verbs.train import train

HERE = Path(__file__).parent
KEY = ("group", "label", "lookback", "horizon", "seed")
SCORES = ("mse", "mae", "accuracy", "macro_f1")


def experiments(group: str) -> Iterator[dict[str, Any]]:
    """Yield every run of a group: the product of its labels, look-backs, horizons and seeds."""
    described = yaml.safe_load((HERE / "experiments.yaml").read_text(encoding="utf-8"))[group]
    axes = (described.get("lookback", [0]), described.get("horizon", [0]), described["seeds"])
    for variant, (lookback, horizon, seed) in itertools.product(
        described["variants"], itertools.product(*axes)
    ):
        yield {
            "group": group,
            "label": variant["label"],
            "file": described["file"],
            "model": variant["model"],
            "lookback": lookback,
            "horizon": horizon,
            "seed": seed,
            "set": [*described.get("set", []), *variant.get("set", [])],
        }


def run(experiment: dict[str, Any], data: Path) -> dict[str, Any]:
    """Train one experiment in a temporary run folder and return its row."""
    flags = {
        "data.path": data / experiment["file"],
        "data.lookback": experiment["lookback"] or None,
        "data.horizon": experiment["horizon"] or None,
        "model.name": experiment["model"],
        "seed": experiment["seed"],
        "device": "cpu",
    }
    forecasting = cast(Domain, domain)
    config = resolve(forecasting, flags=flags, sets=experiment["set"])
    with tempfile.TemporaryDirectory() as name:
        result = train(forecasting, config, Path(name) / "run", progress=False)
        scored = evaluate(forecasting, result.folder, split="val")
        on_validation = {k: metric["value"] for k, metric in scored["metrics"].items()}
        with (result.folder / "history.csv").open(encoding="utf-8") as file:
            history = list(csv.DictReader(file))
    row = {name: experiment[name] for name in KEY} | {"model": experiment["model"]}
    metrics = result.metrics["metrics"]
    for score in SCORES:
        found = metrics.get(score, {})
        row |= {score: found.get("value"), f"{score}_low": found.get("ci_low")}
        row[f"{score}_high"] = found.get("ci_high")
    row["val_loss"] = min(float(epoch["val_loss"]) for epoch in history)
    row["val_mse"] = on_validation.get("mse")
    row["epochs"] = len(history)
    row["parameters"] = sum(p.numel() for p in result.loaded.model.parameters())
    row["seconds"] = round(sum(float(epoch["seconds"]) for epoch in history), 1)
    row["scored"] = result.metrics["n_scored"]
    row["set"] = " ".join(experiment["set"])
    row["baselines"] = json.dumps(result.metrics["baselines"])
    row["date"] = datetime.date.today().isoformat()
    row["versions"] = f"python {platform.python_version()}, torch {torch.__version__}"
    return row


def done(out: Path) -> set[tuple[str, ...]]:
    """Return the keys of the experiments that `out` holds."""
    if not out.is_file():
        return set()
    with out.open(encoding="utf-8", newline="") as file:
        return {tuple(row[name] for name in KEY) for row in csv.DictReader(file)}


def main() -> None:
    """Run a group."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data files")
    parser.add_argument("--group", required=True, action="append")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for group in arguments.group:
        for experiment in experiments(group):
            key = tuple(str(experiment[name]) for name in KEY)
            if key in done(arguments.out):
                continue
            row = run(experiment, arguments.data)
            new = not arguments.out.is_file()
            with arguments.out.open("a", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, list(row))
                if new:
                    writer.writeheader()
                writer.writerow(row)
            shown = row["mse"] if row["mse"] is not None else row["accuracy"]
            print(*key, f"{shown:.4f}", f"val {row['val_loss']:.4f}", f"{row['seconds']} s")


if __name__ == "__main__":
    main()

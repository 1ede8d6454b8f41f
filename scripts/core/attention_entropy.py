"""Entropy of attention and accuracy with and without attention entropy maximisation.

    python scripts/core/attention_entropy.py --seeds 5 --out entropy.jsonl
    python scripts/core/attention_entropy.py --seeds 0 --out entropy.jsonl   # table only

Every run is appended to the file and not made again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from aspect_task import AspectModel, Objective, accuracy
from attention_robustness import LAYER, interval, mean_entropy, rows, run_missing

from shared_attention.regularisers import attended, entropy_loss

FACTORS = (0.01, 0.1)


def maximise(factor: float) -> Objective:
    def objective(model, batch, loss):  # type: ignore[no-untyped-def]
        with attended(model, [LAYER]) as calls:
            value = loss()
        return value + factor * entropy_loss(calls)

    return objective


def score(model: AspectModel, data: tuple) -> dict:
    _, validation, test, _ = data
    return {
        "test": accuracy(model, test),
        "validation_entropy": mean_entropy(model, validation),
        "test_entropy": mean_entropy(model, test),
    }


def table(path: Path) -> None:
    found = rows(path)
    shared = sorted(set.intersection(*(set(runs) for runs in found.values())))
    print(f"{len(shared)} seeds: {shared}\n")
    keys = ("validation", "validation_entropy", "test", "test_entropy")
    print("| factor | " + " | ".join(keys) + " | validation, gain over 0 | entropy, gain over 0 |")
    print("|---|" + "---|" * (len(keys) + 2))
    for method, runs in found.items():
        columns = [[runs[s][key] for s in shared] for key in keys]
        for key in ("validation", "validation_entropy"):
            columns.append([runs[s][key] - found["0"][s][key] for s in shared])
        print(f"| {method} | " + " | ".join(map(interval, columns)) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    methods = {"0": lambda model, batch, loss: loss()}
    methods |= {str(factor): maximise(factor) for factor in FACTORS}
    run_missing(options.out, methods, range(options.seeds), score, options.epochs)
    table(options.out)


if __name__ == "__main__":
    main()

"""Accuracy under perturbed attention after training plainly, or by AT, iAT, VAT and iVAT.

    python scripts/core/attention_robustness.py --seeds 5 --out robustness.jsonl
    python scripts/core/attention_robustness.py --seeds 0 --out robustness.jsonl   # tables only

Every run is appended to the file and not made again. Test samples are scored under perturbations
of the scores of each length: the worst direction for the model at hand, knowing the labels, and a
random one (the mean of three draws).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import mean, stdev

import torch
import torch.nn.functional as F
from aspect_task import AspectModel, Objective, Samples, accuracy, batches, load, train
from torch import Tensor

from shared_attention.regularisers import (
    attended,
    attention_at,
    attention_iat,
    attention_ivat,
    attention_vat,
    entropy,
    perturbed,
    worst_perturbation,
)

LAYER = "pool"
LENGTHS = (0.5, 1.0, 2.0, 4.0, 8.0)
T_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36}
"""Student's t of two-sided 95 % intervals by number of runs."""


def objectives(epsilon: float) -> dict[str, Objective]:
    how = {"epsilon": epsilon, "layers": [LAYER]}
    return {
        "plain": lambda model, batch, loss: loss(),
        "AT": lambda model, batch, loss: sum(attention_at(model, loss, **how)),
        "iAT": lambda model, batch, loss: sum(attention_iat(model, loss, **how)),
        "VAT": lambda model, batch, loss: (
            loss() + attention_vat(model, lambda: model(batch), **how)
        ),
        "iVAT": lambda model, batch, loss: (
            loss() + attention_ivat(model, lambda: model(batch), **how)
        ),
    }


def curve(model: AspectModel, samples: Samples) -> dict[str, list[float]]:
    """Return accuracies at each length, along the worst and along random directions."""
    right = {"worst": [0.0] * len(LENGTHS), "random": [0.0] * len(LENGTHS)}
    generator = torch.Generator().manual_seed(0)
    for chosen in batches(samples, 256, None):
        batch = samples[chosen]

        def loss(batch: Samples = batch) -> Tensor:
            return F.cross_entropy(model(batch), batch.label, reduction="sum")

        (unit,) = worst_perturbation(model, loss, epsilon=1.0, layers=[LAYER])[LAYER]
        drawn = [torch.randn(unit.shape, generator=generator) for _ in range(3)]
        hidden = ~batch.valid[:, None, None]
        drawn = [r.masked_fill(hidden, 0) for r in drawn]
        drawn = [r / r.norm(dim=-1, keepdim=True) for r in drawn]
        for i, length in enumerate(LENGTHS):
            right["worst"][i] += hits(model, batch, length * unit)
            right["random"][i] += mean(hits(model, batch, length * r) for r in drawn)
    return {name: [count / len(samples) for count in counts] for name, counts in right.items()}


@torch.no_grad()
def hits(model: AspectModel, batch: Samples, r: Tensor) -> int:
    with perturbed(model, {LAYER: [r]}):
        return int((model(batch).argmax(-1) == batch.label).sum())


@torch.no_grad()
def mean_entropy(model: AspectModel, samples: Samples) -> float:
    """Return the mean entropy of the aspect's attention in nats."""
    model.eval()
    total = 0.0
    for chosen in batches(samples, 256, None):
        with attended(model, [LAYER]) as calls:
            model(samples[chosen])
        total += float(entropy(calls)) * len(chosen)
    return total / len(samples)


def interval(values: list[float]) -> str:
    """Return the mean and the half-width of its 95 % interval over seeds."""
    if len(values) < 2:
        return f"{mean(values):.3f}"
    return f"{mean(values):.3f} ± {T_95[len(values)] * stdev(values) / len(values) ** 0.5:.3f}"


def rows(path: Path) -> dict[str, dict[int, dict]]:
    """Return the runs of a file by method and seed."""
    found: dict[str, dict[int, dict]] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        row = json.loads(line)
        found.setdefault(row["method"], {})[row["seed"]] = row
    return found


def run_missing(
    path: Path,
    methods: dict[str, Objective],
    seeds: Iterable[int],
    score: Callable[..., dict],
    epochs: int,
) -> None:
    """Train and score each method and seed that the file lacks."""
    data = None
    for seed in seeds:
        for method, objective in methods.items():
            if seed in rows(path).get(method, {}):
                continue
            data = data or load()
            model, best = train(seed, objective, data, epochs)
            row = {"method": method, "seed": seed, "validation": best, **score(model, data)}
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")


def score(model: AspectModel, data: tuple) -> dict:
    test = data[2]
    return {"test": accuracy(model, test), "entropy": mean_entropy(model, test)} | curve(
        model, test
    )


def tables(path: Path) -> None:
    found = rows(path)
    shared = sorted(set.intersection(*(set(runs) for runs in found.values())))
    print(f"{len(shared)} seeds in all methods: {shared}\n")
    for kind in ("worst", "random"):
        print(f"| {kind} direction | 0 |" + "".join(f" {x} |" for x in LENGTHS))
        print("|---|" + "---|" * (len(LENGTHS) + 1))
        for method, runs in found.items():
            columns = [[runs[s]["test"] for s in shared]]
            columns += [[runs[s][kind][i] for s in shared] for i in range(len(LENGTHS))]
            print(f"| {method} | " + " | ".join(map(interval, columns)) + " |")
        print()
    print("accuracy lost under the worst direction, less that of plain training (paired)\n")
    print("| method |" + "".join(f" {x} |" for x in LENGTHS) + " validation | entropy |")
    print("|---|" + "---|" * (len(LENGTHS) + 2))
    for method, runs in found.items():
        lost = [[_lost(runs[s], i) - _lost(found["plain"][s], i) for s in shared] for i in range(5)]
        rest = [[runs[s][key] for s in shared] for key in ("validation", "entropy")]
        print(f"| {method} | " + " | ".join(map(interval, lost + rest)) + " |")


def _lost(row: dict, i: int) -> float:
    return row["test"] - row["worst"][i]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--epsilon", type=float, default=1.0, help="length in training")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    run_missing(
        options.out, objectives(options.epsilon), range(options.seeds), score, options.epochs
    )
    tables(options.out)


if __name__ == "__main__":
    main()

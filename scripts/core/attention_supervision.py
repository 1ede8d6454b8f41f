"""Accuracy with attention supervised by words that were extracted progressively.

    python scripts/core/attention_supervision.py --seeds 3 --out supervision.jsonl
    python scripts/core/attention_supervision.py --seeds 0 --out supervision.jsonl   # table only

Words of the aspect itself are never extracted. Training samples are judged by the model that was
fitted to them, as in the paper's code. Every run is appended to the file and not made again.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from aspect_task import FAR, PAD, AspectModel, Objective, Samples, accuracy, batches, load, train
from attention_robustness import LAYER, interval, mean_entropy, rows, run_missing
from torch import Tensor

from shared_attention.regularisers import (
    Words,
    attended,
    extract_progressively,
    supervision_loss,
    word_attention,
)

FACTORS = (0.1, 0.5)


def find_words(seed: int, data: tuple[Samples, Samples, Samples, int], epochs: int) -> Words:
    """Extract words of the training samples, at most five of each."""
    fit, validation, test, count = data
    aspect = fit.distance == FAR
    kept: list[AspectModel] = []

    def shown(visible: Tensor) -> Samples:
        return replace(fit, ids=fit.ids.masked_fill(~(visible | aspect), PAD))

    def again(visible: Tensor) -> None:
        rest = (shown(visible), validation, test, count)
        kept.append(train(seed + len(kept), lambda model, batch, loss: loss(), rest, epochs)[0])

    @torch.no_grad()
    def examine(visible: Tensor) -> tuple[Tensor, Tensor]:
        impact, correct = torch.zeros(fit.ids.shape), torch.zeros(len(fit), dtype=torch.bool)
        samples = shown(visible)
        for chosen in batches(samples, 256, None):
            batch = samples[chosen]
            with attended(kept[-1], [LAYER]) as calls:
                correct[chosen] = kept[-1](batch).argmax(-1) == batch.label
            impact[chosen, : batch.ids.shape[1]] = word_attention(calls[0])
        return impact, correct

    return extract_progressively(fit.valid & ~aspect, again, examine)


def supervise(words: Words, factor: float) -> Objective:
    def objective(model, batch, loss):  # type: ignore[no-untyped-def]
        with attended(model, [LAYER]) as calls:
            value = loss()
        own = words[batch.index]
        length = batch.ids.shape[1]
        own = Words(own.active[:, :length], own.misleading[:, :length])
        return value + factor * supervision_loss(word_attention(calls[0]), own)

    return objective


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for seed in range(options.seeds):
        if seed in rows(options.out).get(str(FACTORS[-1]), {}):
            continue
        data = load()
        words = find_words(100 * seed, data, options.epochs)
        found = {
            "active": float(words.active.sum(-1).float().mean()),
            "misleading": float(words.misleading.sum(-1).float().mean()),
        }

        def score(model: AspectModel, data: tuple, found: dict = found) -> dict:
            test = data[2]
            clean = {"test": accuracy(model, test), "entropy": mean_entropy(model, test)}
            return clean | found

        methods: dict[str, Objective] = {"0": lambda model, batch, loss: loss()}
        methods |= {str(factor): supervise(words, factor) for factor in FACTORS}
        run_missing(options.out, methods, range(seed, seed + 1), score, options.epochs)
    found = rows(options.out)
    keys = ("validation", "test", "entropy", "active", "misleading")
    print("| factor | " + " | ".join(keys) + " |\n|---|" + "---|" * len(keys))
    for method, runs in found.items():
        print(f"| {method} | " + " | ".join(interval([r[k] for r in runs.values()]) for k in keys))


if __name__ == "__main__":
    main()

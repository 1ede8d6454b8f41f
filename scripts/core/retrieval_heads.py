"""Retrieval heads of a model that looks facts up, and what it is without them.

    python scripts/core/retrieval_heads.py --seeds 3 --figures DIR

A context of random tokens holds four facts, each a key and the two tokens after it; then it asks
for them in another order, and the model has to give the tokens after each key (Wu et al.,
Retrieval Head Mechanistically Explains Long-Context Factuality, 2024, in small).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch
from tiny_transformer import Batch, TinyTransformer, accuracy, train
from torch import Tensor

from shared_attention import explain
from shared_attention.explain import plots

CONTEXT, KINDS, KEYS, FACTS, FACT, BATCH = 24, 16, 8, 4, 2, 64


def facts(random: torch.Generator, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return tokens `[B, L]`, needle and answer, bool `[B, L]`; tokens from KINDS on are keys."""
    length = CONTEXT + FACTS * (1 + FACT)
    tokens = torch.randint(KINDS, (count, length), generator=random)
    row = torch.arange(count)[:, None]
    room = CONTEXT // FACTS
    offset = torch.randint(room - FACT, (count, FACTS), generator=random)
    place = offset + room * torch.arange(FACTS)
    keys = KINDS + torch.rand(count, KEYS, generator=random).argsort(1)[:, :FACTS]
    tokens[row, place] = keys
    order = torch.rand(count, FACTS, generator=random).argsort(1)
    where = (place.gather(1, order)[..., None] + torch.arange(1 + FACT)).flatten(1)
    tokens[:, CONTEXT:] = tokens.gather(1, where)
    needle = torch.zeros_like(tokens, dtype=torch.bool)
    for step in range(1, 1 + FACT):
        needle[row, place + step] = True
    answer = torch.arange(length) >= CONTEXT
    answer = answer & ((torch.arange(length) - CONTEXT) % (1 + FACT) != 0)
    return tokens, needle, answer.expand(count, -1)


def question(tokens: Tensor, answer: Tensor) -> Batch:
    """Return tokens and the next token where it belongs to the answer, -1 elsewhere."""
    following = tokens[:, 1:].masked_fill(~answer[:, 1:], -1)
    return tokens[:, :-1], following


def draw(random: torch.Generator) -> Batch:
    """Return a batch for training."""
    tokens, _, answer = facts(random, BATCH)
    return question(tokens, answer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--figures", type=Path)
    arguments = parser.parse_args()
    print("| seed | accuracy | scores above 0.1 (layer.head: score) | without the best head | "
          "without any other one head, mean (worst) | without all above 0.1 | "
          "without as many others, mean of 5 |")  # fmt: skip
    print("|---|---|---|---|---|---|---|")
    for seed in range(arguments.seeds):
        torch.manual_seed(seed)
        model = TinyTransformer(KINDS + KEYS, KINDS, layers=arguments.layers, causal=True)
        train(model, draw, steps=arguments.steps, seed=seed, rate=4e-3, goal=0.99)
        tokens, needle, answer = facts(torch.Generator().manual_seed(1000 + seed), 512)
        print(row(model, seed, tokens, needle, answer, arguments.figures if not seed else None))


def row(
    model: TinyTransformer,
    seed: int,
    tokens: Tensor,
    needle: Tensor,
    answer: Tensor,
    figures: Path | None,
) -> str:
    batch = question(tokens, answer)
    with explain.capture(model) as maps, torch.no_grad():
        model(tokens)
    scores = explain.retrieval_scores(maps, tokens, needle, answer)
    importance = explain.head_importance(model, lambda: accuracy(model, batch))
    whole = accuracy(model, batch)
    flat = {(n, h): float(s) for n, row in scores.items() for h, s in enumerate(row)}
    order = sorted(flat, key=lambda key: -flat[key])
    chosen = [key for key in order if flat[key] > 0.1]
    alone = {key: whole - float(importance[key[0]][key[1]]) for key in flat}
    others = [key for key in order if key not in chosen]
    random = torch.Generator().manual_seed(seed)
    drawn = []
    for _ in range(5):
        some = [others[n] for n in torch.randperm(len(others), generator=random)[: len(chosen)]]
        drawn.append(without(model, some, batch))
    if figures is not None:
        draw_figures(maps, tokens, scores, importance, figures)
    listed = ", ".join(f"{n.split('.')[1]}.{h}: {flat[n, h]:.2f}" for n, h in chosen)
    rest = [alone[key] for key in order[1:]]
    return (
        f"| {seed} | {whole:.3f} | {listed} | {alone[order[0]]:.3f} | "
        f"{sum(rest) / len(rest):.3f} ({min(rest):.3f}) | {without(model, chosen, batch):.3f} | "
        f"{sum(drawn) / 5:.3f} |"
    )


def without(model: TinyTransformer, heads: list[tuple[str, int]], batch: Batch) -> float:
    by_layer: dict[str, list[int]] = {}
    for name, head in heads:
        by_layer.setdefault(name, []).append(head)
    with explain.ablate(model, by_layer):
        return accuracy(model, batch)


def draw_figures(
    maps: Mapping[str, Tensor],
    tokens: Tensor,
    scores: Mapping[str, Tensor],
    importance: Mapping[str, Tensor],
    folder: Path,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"K{t - KINDS}" if t >= KINDS else str(t) for t in tokens[0].tolist()]
    for layer, weights in maps.items():
        picture = plots.matrix_figure(weights[0], title=layer, queries=names)
        picture.savefig(folder / f"retrieval_{layer}.png")
    picture = plots.head_figure(scores, title="Retrieval score", label="part of needle copied",
                                largest=1.0)  # fmt: skip
    picture.savefig(folder / "retrieval_scores.png")
    picture = plots.head_figure(importance, title="Accuracy lost without the head", label="points")
    picture.savefig(folder / "retrieval_importance.png")


if __name__ == "__main__":
    main()

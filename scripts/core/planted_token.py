"""Which method finds the token that decides a class, where it is known which one does?

    python scripts/core/planted_token.py --seeds 5 --figures DIR

The class of a sequence of random tokens is that of one token planted in it, all others are noise.
Task `one`: tokens of 8 kinds decide, of which a sequence has one. Task `two`: there is a token of
8 more kinds, which decides a second class that the model gives as well, and each class is asked
for; what decides one is noise to the other. Task `marker`: the token after a marker decides, and
tokens of its kind are everywhere. Each method ranks the tokens from the class position and is
right where the planted one comes first.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping
from pathlib import Path

import torch
from tiny_transformer import Batch, TinyTransformer, train
from torch import Tensor

from shared_attention import explain
from shared_attention.explain import plots

LENGTH, CLASSES, KINDS, BATCH = 20, 8, 32, 64
CLASS_TOKEN, MARKER, FIRST = 0, 1, 2
TASKS = ("one", "two", "marker")


def planted(task: str, random: torch.Generator, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return tokens `[B, 1 + LENGTH]`, a class position first, classes and planted places `[B]`.

    Each sample of task `two` is there twice, asked for either class: classes from CLASSES on are
    those of the second token.
    """
    kinds = KINDS if task == "marker" else KINDS - 2 * CLASSES
    tokens = torch.randint(FIRST + KINDS - kinds, FIRST + KINDS, (count, LENGTH + 1),
                           generator=random)  # fmt: skip
    tokens[:, 0] = CLASS_TOKEN
    row = torch.arange(count)
    if task == "marker":
        place = torch.randint(1, LENGTH, (count,), generator=random)
        tokens[row, place] = MARKER
        return tokens, (tokens[row, place + 1] - FIRST) % CLASSES, place + 1
    place = 1 + torch.rand(count, LENGTH, generator=random).argsort(1)[:, :2]
    classes = torch.randint(CLASSES, (count, 2), generator=random) + torch.tensor([0, CLASSES])
    if task == "one":
        tokens[row, place[:, 0]] = FIRST + classes[:, 0]
        return tokens, classes[:, 0], place[:, 0]
    tokens[row[:, None], place] = FIRST + classes
    return tokens.repeat(2, 1), classes.T.flatten(), place.T.flatten()


def logits_of(model: TinyTransformer, task: str, tokens: Tensor, classes: Tensor) -> Tensor:
    """Return logits `[B, CLASSES]` of the class that is asked for."""
    logits = model(tokens)[:, 0]
    if task != "two":
        return logits
    return torch.where((classes < CLASSES)[:, None], *logits.chunk(2, -1))


def rankings(
    model: TinyTransformer, task: str, tokens: Tensor, classes: Tensor
) -> dict[str, Tensor]:
    """Return how relevant each method finds each token for the predicted class, `[B, LENGTH]`."""
    with explain.trace(model) as traces:
        logits = logits_of(model, task, tokens, classes)
    best = logits.detach().argmax(-1, keepdim=True)
    score = logits.gather(1, best).sum()
    gradient = list(explain.gradient_relevance(traces, score).values())
    weights = [seen.weights for seen in traces.values()]
    values = list(explain.value_relevance(traces).values())
    found = {
        "last layer, mean over heads": weights[-1].mean(1),
        "rollout": explain.rollout(weights),
        "value norms, last layer": values[-1].mean(1),
        "value norms, rollout": explain.rollout(values),
        "gradient x attention, last layer": gradient[-1].mean(1),
        "gradient x attention, rollout": explain.relevance_rollout(gradient),
    }
    return {name: relevance[:, 0, 1:] for name, relevance in found.items()}


def scores(ranked: Mapping[str, Tensor], truth: Tensor) -> dict[str, tuple[float, float]]:
    """Return the share of samples whose planted token is first, and the mean reciprocal rank."""
    result = {}
    for name, relevance in ranked.items():
        own = relevance.gather(1, truth[:, None])
        rank = 1 + (relevance > own).sum(1)
        result[name] = float((rank == 1).float().mean()), float((1 / rank).mean())
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["one", "two"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--mechanism", default="softmax")
    parser.add_argument("--figures", type=Path)
    arguments = parser.parse_args()
    for task in arguments.tasks:
        table: dict[str, list[tuple[float, float]]] = {}
        reached = []
        for seed in range(arguments.seeds):
            model = trained(task, arguments.mechanism, seed, arguments.steps)
            tokens, classes, place = planted(task, torch.Generator().manual_seed(1000 + seed), 512)
            with torch.no_grad():
                guess = logits_of(model, task, tokens, classes).argmax(-1)
            reached.append(float((guess == classes % CLASSES).float().mean()))
            ranked = rankings(model, task, tokens, classes)
            for name, pair in scores(ranked, place - 1).items():
                table.setdefault(name, []).append(pair)
            if arguments.figures is not None and seed == 0:
                draw_figures(model, tokens, ranked, place, arguments.figures,
                             f"{task}_{arguments.mechanism}")  # fmt: skip
        accuracies = ", ".join(f"{x:.3f}" for x in reached)
        print(f"\n{task}, {arguments.mechanism}: accuracy on new samples {accuracies}\n")
        print("| method | planted token first, mean (each seed) | mean reciprocal rank |")
        print("|---|---|---|")
        for name, pairs in table.items():
            first = [one for one, _ in pairs]
            each = " ".join(f"{x:.3f}" for x in first)
            reciprocal = statistics.mean(x for _, x in pairs)
            print(f"| {name} | {statistics.mean(first):.3f} ({each}) | {reciprocal:.3f} |",
                  flush=True)  # fmt: skip


def trained(task: str, mechanism: str, seed: int, steps: int) -> TinyTransformer:
    """Return an encoder that has learned the task."""
    torch.manual_seed(seed)
    outputs = 2 * CLASSES if task == "two" else CLASSES
    model = TinyTransformer(FIRST + KINDS, outputs, mechanism=mechanism)

    def draw(random: torch.Generator) -> Batch:
        tokens, classes, _ = planted(task, random, BATCH)
        return tokens, classes

    def loss_and_accuracy(tokens: Tensor, classes: Tensor) -> tuple[Tensor, float]:
        logits = logits_of(model, task, tokens, classes)
        target = classes % CLASSES
        right = float((logits.argmax(-1) == target).float().mean())
        return torch.nn.functional.cross_entropy(logits, target), right

    train(model, draw, steps=steps, seed=seed, goal=0.999, measure=loss_and_accuracy)
    return model


def draw_figures(
    model: TinyTransformer,
    tokens: Tensor,
    ranked: Mapping[str, Tensor],
    place: Tensor,
    folder: Path,
    name: str,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = ["M" if t == MARKER else str(int(t) - FIRST) for t in tokens[0, 1:]]
    rows = {method: relevance[0] for method, relevance in ranked.items()}
    picture = plots.token_figure(rows, names, marked=[int(place[0]) - 1])
    picture.savefig(folder / f"planted_tokens_{name}.png")
    with explain.capture(model) as maps, torch.no_grad():
        model(tokens[:1])
    for layer, weights in maps.items():
        picture = plots.matrix_figure(weights[0], title=layer, queries=["class", *names])
        picture.savefig(folder / f"planted_{name}_{layer}.png")


if __name__ == "__main__":
    main()

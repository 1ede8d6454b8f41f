"""Which method finds the token that decides a class, where it is known which one does?

    python scripts/core/planted_token.py --seeds 5 --figures DIR

A sequence of random tokens holds one marker; its class is that of the token after the marker, all
others are noise. A small encoder learns the classes; then each method ranks the tokens from the
class position, and is right where the token after the marker comes first.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping
from pathlib import Path

import torch
from tiny_transformer import Batch, TinyTransformer, accuracy, train
from torch import Tensor

from shared_attention import explain
from shared_attention.explain import plots

LENGTH, CLASSES, KINDS, BATCH = 24, 8, 32, 64
CLASS_TOKEN, MARKER, FIRST = 0, 1, 2


def draw(random: torch.Generator, count: int = BATCH) -> Batch:
    """Return tokens `[B, 1 + LENGTH]`, a class position first, and classes `[B]`."""
    tokens = torch.randint(FIRST, FIRST + KINDS, (count, LENGTH + 1), generator=random)
    tokens[:, 0] = CLASS_TOKEN
    place = torch.randint(1, LENGTH, (count,), generator=random)
    row = torch.arange(count)
    tokens[row, place] = MARKER
    return tokens, (tokens[row, place + 1] - FIRST) % CLASSES


def rankings(model: TinyTransformer, tokens: Tensor) -> dict[str, Tensor]:
    """Return how relevant each method finds each token for the predicted class, `[B, LENGTH]`."""
    with explain.trace(model) as traces:
        logits = model(tokens)[:, 0]
    best = logits.detach().argmax(-1)
    score = logits.gather(1, best[:, None]).sum()
    gradient = list(explain.gradient_relevance(traces, score).values())
    weights = [seen.weights for seen in traces.values()]
    values = list(explain.value_relevance(traces).values())
    found = {
        "last layer, mean over heads": weights[-1].mean(1),
        "rollout": explain.rollout(weights),
        "rollout of value norms": explain.rollout(values),
        "gradient x attention, last layer": gradient[-1].mean(1),
        "gradient x attention, rollout": explain.relevance_rollout(gradient),
    }
    ranked = {name: relevance[:, 0, 1:] for name, relevance in found.items()}
    return {**ranked, "occlusion (24 passes)": occlusion(model, tokens, best)}


@torch.no_grad()
def occlusion(model: TinyTransformer, tokens: Tensor, best: Tensor) -> Tensor:
    """Return by how much the class's logit falls without each token, mean of 3 replacements."""
    random = torch.Generator().manual_seed(1)
    plain = model(tokens)[:, 0].gather(1, best[:, None])
    falls = []
    for place in range(1, LENGTH + 1):
        rest = []
        for _ in range(3):
            changed = tokens.clone()
            changed[:, place] = torch.randint(
                FIRST, FIRST + KINDS, (len(tokens),), generator=random
            )
            rest.append(plain - model(changed)[:, 0].gather(1, best[:, None]))
        falls.append(torch.stack(rest).mean(0))
    return torch.cat(falls, 1)


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
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--mechanisms", nargs="+", default=["softmax"])
    parser.add_argument("--figures", type=Path)
    arguments = parser.parse_args()
    for mechanism in arguments.mechanisms:
        table: dict[str, list[tuple[float, float]]] = {}
        reached = []
        for seed in range(arguments.seeds):
            torch.manual_seed(seed)
            model = TinyTransformer(FIRST + KINDS, CLASSES, mechanism=mechanism)
            train(model, draw, steps=arguments.steps, seed=seed, goal=0.999)
            tokens, target = draw(torch.Generator().manual_seed(1000 + seed), 512)
            reached.append(accuracy(model, (tokens, target)))
            truth = (tokens == MARKER).int().argmax(1)  # the token after it, without the first
            ranked = rankings(model, tokens)
            for name, pair in scores(ranked, truth).items():
                table.setdefault(name, []).append(pair)
            if arguments.figures is not None and seed == 0:
                draw_figures(model, tokens[:1], ranked, int(truth[0]), arguments.figures, mechanism)
        print(f"{mechanism}: accuracy on 512 new samples {', '.join(f'{x:.3f}' for x in reached)}")
        print("| method | planted token first, mean (each seed) | mean reciprocal rank |")
        print("|---|---|---|")
        for name, pairs in table.items():
            first = [one for one, _ in pairs]
            each = " ".join(f"{x:.2f}" for x in first)
            reciprocal = statistics.mean(x for _, x in pairs)
            print(f"| {name} | {statistics.mean(first):.3f} ({each}) | {reciprocal:.3f} |")


def draw_figures(
    model: TinyTransformer,
    tokens: Tensor,
    ranked: Mapping[str, Tensor],
    truth: int,
    folder: Path,
    mechanism: str,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = ["M" if t == MARKER else str(int(t) - FIRST) for t in tokens[0, 1:]]
    picture = plots.token_figure({n: x[0].clamp_min(0) for n, x in ranked.items()}, names,
                                 marked=[truth])  # fmt: skip
    picture.savefig(folder / f"planted_tokens_{mechanism}.png")
    with explain.capture(model) as maps, torch.no_grad():
        model(tokens)
    for name, weights in maps.items():
        picture = plots.matrix_figure(weights[0], title=name, queries=["class", *names])
        picture.savefig(folder / f"planted_{mechanism}_{name}.png")


if __name__ == "__main__":
    main()

"""Attention sinks and dormant heads in models trained on the Bigram-Backcopy task.

    python scripts/core/dormant_heads.py --seeds 3 --figures DIR

After a trigger token the next token is the one before it, after any other token it is drawn from
a fixed Markov chain (Guo et al., Active-Dormant Attention Heads, 2024, section 3). A head that
copies is of use after triggers only; elsewhere it rests on the start token.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from tiny_transformer import Batch, TinyTransformer, accuracy, train
from torch import Tensor

from shared_attention import explain
from shared_attention.explain import plots

LENGTH, KINDS, TRIGGERS, BATCH = 32, 32, 3, 48
START = KINDS


def chain(seed: int = 0) -> Tensor:
    """Return transition probabilities `[KINDS, KINDS]`: a few likely tokens after each."""
    random = torch.Generator().manual_seed(seed)
    return (2.0 * torch.randn(KINDS, KINDS, generator=random)).softmax(-1)


def sequences(random: torch.Generator, count: int) -> Tensor:
    """Return `[B, LENGTH + 1]`, beginning with START; tokens below TRIGGERS are triggers."""
    steps = chain()
    tokens = torch.full((count, LENGTH + 1), START)
    tokens[:, 1] = torch.randint(TRIGGERS, KINDS, (count,), generator=random)
    for n in range(2, LENGTH + 1):
        last = tokens[:, n - 1]
        drawn = torch.multinomial(steps[last], 1, generator=random)[:, 0]
        back = tokens[:, n - 2]
        tokens[:, n] = torch.where((last < TRIGGERS) & (back != START), back, drawn)
    return tokens


def draw(random: torch.Generator) -> Batch:
    """Return tokens and the next token of every position."""
    tokens = sequences(random, BATCH)
    return tokens[:, :-1], tokens[:, 1:]


def after_triggers(tokens: Tensor) -> Batch:
    """Return tokens and the next token where it is a copy, -1 elsewhere."""
    now, following = tokens[:, :-1], tokens[:, 1:]
    return now, following.masked_fill((now >= TRIGGERS) | (torch.arange(LENGTH) < 2), -1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--figures", type=Path)
    arguments = parser.parse_args()
    print("| layers x heads | seed | copies right | layer | head | sink share after triggers | "
          "elsewhere | kind | values of start / others | residual of start / others |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|")
    for layers, heads in ((1, 1), (3, 2)):
        for seed in range(arguments.seeds):
            torch.manual_seed(seed)
            model = TinyTransformer(KINDS + 1, KINDS, heads=heads, layers=layers, causal=True)
            train(model, draw, steps=arguments.steps, seed=seed, rate=4e-3)
            tokens = sequences(torch.Generator().manual_seed(1000 + seed), 256)
            right = accuracy(model, after_triggers(tokens))
            report(model, tokens[:, :-1], f"{layers} x {heads} | {seed} | {right:.3f}")
            if arguments.figures is not None and seed == 0:
                draw_figures(model, tokens[:, :-1], arguments.figures, f"{layers}x{heads}")


def report(model: TinyTransformer, tokens: Tensor, start: str) -> None:
    with explain.trace(model) as traces, torch.no_grad():
        model(tokens)
    context = (tokens >= TRIGGERS).long()
    context[:, :2] = -1  # sees next to nothing but the start
    chosen = torch.zeros_like(tokens, dtype=torch.bool)
    chosen[:, 0] = True
    for n, seen in enumerate(traces.values()):
        shares = explain.mean_by_context(explain.sink_share(seen.weights), context)
        kinds = explain.dormant_heads(shares)
        heads = seen.weights.shape[1]
        drain = explain.norm_ratio(seen.values, chosen[:, None].expand(-1, heads, -1)).mean(0)
        peak = float(explain.norm_ratio(seen.inputs, chosen).mean())
        for head in range(heads):
            kind = next(name for name, which in kinds.items() if which[head])
            print(f"| {start} | {n} | {head} | {shares[0, head]:.2f} | {shares[1, head]:.2f} | "
                  f"{kind} | {drain[head]:.2f} | {peak:.2f} |")  # fmt: skip


def draw_figures(model: TinyTransformer, tokens: Tensor, folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with explain.capture(model) as maps, torch.no_grad():
        model(tokens)
    names = [
        "<s>" if token == START else f"T{token}" if token < TRIGGERS else str(token)
        for token in tokens[0, :30].tolist()
    ]
    for layer, weights in maps.items():
        picture = plots.matrix_figure(weights[0, :, :30, :30], title=layer, queries=names)
        picture.savefig(folder / f"backcopy_{name}_{layer}.png")
    shares = {layer: explain.sink_share(weights).nanmean((0, 2)) for layer, weights in maps.items()}
    picture = plots.head_figure(shares, title="Attention to the start token", label="share",
                                largest=1.0)  # fmt: skip
    picture.savefig(folder / f"backcopy_{name}_sinks.png")
    entropy = {n: s["entropy"] for n, s in explain.head_statistics(maps).items()}
    picture = plots.head_figure(entropy, title="Entropy of attention", label="nats")
    picture.savefig(folder / f"backcopy_{name}_entropy.png")


if __name__ == "__main__":
    main()

"""Attention calibration of trained models: later sinks found, heads chosen, accuracy on new data.

    python scripts/core/calibrated_heads.py --seeds 3

The models look facts up (`retrieval_heads.py`), stopped before they are perfect. Heads are chosen
on 512 held-out sequences as those whose calibration alone raises accuracy, and judged on 2048 new
ones, with the 95 % interval of the difference over sequences.
"""

from __future__ import annotations

import argparse

import torch
from retrieval_heads import FACT, FACTS, KEYS, KINDS, draw, facts, question
from tiny_transformer import Batch, TinyTransformer, accuracy, correct, train
from torch import Tensor

from shared_attention import explain


def held_out(seed: int, count: int) -> tuple[Tensor, Batch]:
    tokens, _, answer = facts(torch.Generator().manual_seed(seed), count)
    return tokens, question(tokens, answer)


def per_sequence(model: TinyTransformer, batch: Batch) -> Tensor:
    return correct(model, batch).view(-1, FACTS * FACT).float().mean(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--goal", type=float, default=0.85)
    parser.add_argument("--beta", type=float, default=0.4)
    parser.add_argument("--alphas", type=float, nargs="+", default=[5.0, 3.0])
    arguments = parser.parse_args()
    print("| seed | alpha | later sinks per head and sequence | heads chosen | accuracy on new "
          "sequences | calibrated | difference (95 % interval) |")  # fmt: skip
    print("|---|---|---|---|---|---|---|")
    for seed in range(arguments.seeds):
        torch.manual_seed(seed)
        model = TinyTransformer(KINDS + KEYS, KINDS, causal=True)
        train(model, draw, steps=arguments.steps, seed=seed, goal=arguments.goal)
        tokens, chosen_on = held_out(1000 + seed, 512)
        _, judged_on = held_out(2000 + seed, 2048)
        with explain.capture(model) as maps, torch.no_grad():
            model(tokens)
        plain = per_sequence(model, judged_on)
        for alpha in arguments.alphas:
            sinks = [explain.find_sinks(weights, alpha=alpha).later for weights in maps.values()]
            many = float(torch.stack(sinks).sum(-1).float().mean())
            settings = {"alpha": alpha, "beta": arguments.beta}
            heads = explain.heads_to_calibrate(
                model, lambda m=model, b=chosen_on: accuracy(m, b), **settings
            )
            with explain.calibrated(model, heads, **settings):
                gain = per_sequence(model, judged_on) - plain
            mean, half = float(gain.mean()), 1.96 * float(gain.std()) / len(gain) ** 0.5
            listed = [f"{n.split('.')[1]}.{h}" for n, which in heads.items() for h in which]
            print(f"| {seed} | {alpha:g} | {many:.2f} | {', '.join(listed) or 'none'} | "
                  f"{float(plain.mean()):.4f} | {float(plain.mean()) + mean:.4f} | {mean:+.4f} "
                  f"({mean - half:+.4f} to {mean + half:+.4f}) |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()

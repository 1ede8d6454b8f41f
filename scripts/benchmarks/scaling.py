"""How the time of a mechanism grows with the length: the exponent of a power law.

    python scripts/benchmarks/scaling.py --lengths 1024 4096 32768
    python scripts/benchmarks/scaling.py liger flow

Without names, every mechanism whose spec says that its cost is linear, O(L ...), is measured;
causally where it can be. The exponent is the slope of log time over log length by least squares,
of the processor time of the fastest of a few forward passes.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import torch
from timing import interleaved

from shared_attention import catalogue, masks
from shared_attention.spec import MechanismSpec


def linear(spec: MechanismSpec) -> bool:
    cost = spec.complexity.split(";")[0].split(" time")[0]
    return cost.startswith(("O(L", "O((L + S)")) and not {"S", "log", "L²"} & {*cost[3:].split()}


def call(spec: MechanismSpec, length: int, heads: int, width: int) -> Callable[[], object]:
    """One forward pass, ready to run."""
    torch.manual_seed(0)
    if spec.family in ("mixer", "pooling"):
        assert spec.module is not None
        mixer = spec.module(channels=heads * width, **spec.resolve({}))
        x = torch.randn(1, length, heads * width)
        return lambda: mixer(x)
    module = spec.build(num_heads=heads, head_dim=width)
    q, k, v = (torch.randn(1, heads, length, width) for _ in range(3))
    if spec.family == "recurrent":
        return lambda: module(k, v)
    mask = masks.causal() if spec.supports("causal") else None
    return lambda: module(q, k, v, mask)


def slope(lengths: list[int], seconds: list[float]) -> float:
    xs, ys = [math.log(n) for n in lengths], [math.log(s) for s in seconds]
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    above = sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True))
    return above / sum((x - x_mean) ** 2 for x in xs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 4096, 16384, 32768])
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--head-dim", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    known = catalogue()
    names = arguments.names or [name for name, spec in known.items() if linear(spec)]
    print(f"torch {torch.__version__}, 1 thread, {arguments.heads} heads of {arguments.head_dim}")
    print(f"| mechanism | mask | {' | '.join(f'{n} ms' for n in arguments.lengths)} | exponent |")
    print("|---" * (len(arguments.lengths) + 3) + "|")
    for name in names:
        spec = known[name]
        seconds = []
        for length in arguments.lengths:
            run = call(spec, length, arguments.heads, arguments.head_dim)
            with torch.inference_mode():
                seconds.append(interleaved({name: run}, arguments.repeats)[name])
        cells = [name, "causal" if spec.supports("causal") else "full"]
        cells += [f"{1e3 * s:.1f}" for s in seconds]
        print(f"| {' | '.join(cells)} | {slope(arguments.lengths, seconds):.2f} |", flush=True)


if __name__ == "__main__":
    main()

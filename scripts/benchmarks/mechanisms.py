"""Every attention mechanism beside fused softmax attention, over lengths.

    python scripts/benchmarks/mechanisms.py --lengths 256 1024 4096 --threads 1

A ratio above 1 means faster than softmax attention on the same inputs and mask; the first length
from which it stays above 1 is the crossover. `error` is the relative distance of the output to
that of softmax attention on random inputs: most mechanisms are other functions, not approximations.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from timing import interleaved
from torch import Tensor

from shared_attention import attention, catalogue, masks


def step(inputs: tuple[Tensor, ...], name: str, causal: bool, training: bool) -> Callable[[], None]:
    mask = masks.causal() if causal else None

    def run() -> None:
        with torch.set_grad_enabled(training):
            out = attention(*inputs, name, mask)
        if training:
            torch.autograd.grad(out.sum(), inputs)

    return run


def names(causal: bool) -> list[str]:
    return [
        spec.name
        for spec in catalogue().values()
        if spec.function is not None
        and (spec.supports("causal") if causal else spec.capabilities.causal != "always")
    ]


def compare(length: int, causal: bool, arguments: argparse.Namespace) -> None:
    shape = (arguments.batch, arguments.heads, length, arguments.head_dim)
    inputs = tuple(torch.randn(shape, device=arguments.device).requires_grad_() for _ in range(3))
    mask = masks.causal() if causal else None
    every = names(causal)
    with torch.no_grad():
        exact = attention(*inputs, "softmax", mask)
        errors = {
            name: ((attention(*inputs, name, mask) - exact).norm() / exact.norm()).item()
            for name in every
        }
    times = [
        interleaved({n: step(inputs, n, causal, training) for n in every}, arguments.repeats)
        for training in (False, True)
    ]
    for name in every:
        cells = [str(length), "causal" if causal else "full", name]
        for measured in times:
            ratio = measured["softmax"] / measured[name]
            cells += [f"{1e3 * measured[name]:.2f}", f"{ratio:.2f}"]
        print("| " + " | ".join([*cells, f"{errors[name]:.2f}"]) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=[96, 336, 1024, 4096])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {arguments.device}, {arguments.threads} thread(s)")
    print("| length | mask | mechanism | forward ms | ratio | training ms | ratio | error |")
    print("|---|---|---|---|---|---|---|---|")
    for causal in (False, True):
        for length in arguments.lengths:
            compare(length, causal, arguments)


if __name__ == "__main__":
    main()

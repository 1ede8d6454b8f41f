"""Bytes of the streaming state and time of one more position, beside a cache of keys and values.

    python scripts/benchmarks/state_bytes.py --positions 1024 16384

Each mechanism reads so many positions, then takes in one at a time. `full` is the largest
difference between a stream of the last positions, some at once and some one by one, and the
whole sequence at once, relative to the largest output.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from streaming import median_seconds
from torch import Tensor, nn

from shared_attention import catalogue, masks

NAMES = (
    "softmax", "sink_window", "window", "linear", "flow", "based", "gated_linear", "liger",
    "neural_memory", "scan", "core_context", "routing", "hip", "prob_sparse",
)  # fmt: skip
TAIL = (40, 1, 1, 1, 20, 1)
"""How the last positions of the comparison with the whole sequence are cut."""


def storage(state: object) -> int:
    """Return the bytes of every tensor in a state."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, (tuple, list)):
        return sum(map(storage, state))
    return sum(map(storage, vars(state).values())) if hasattr(state, "__dict__") else 0


class Stream:
    """A mechanism that reads random positions."""

    def __init__(self, name: str, heads: int, width: int, key_width: int) -> None:
        torch.manual_seed(0)
        self.spec = catalogue()[name]
        self.recurrent = self.spec.family == "recurrent"
        self.module: Any = self.spec.build(num_heads=heads, head_dim=width)
        self.shape = (heads, key_width if name == "based" else width, width)
        assert isinstance(self.module, nn.Module)

    def draw(self, length: int) -> tuple[Tensor, ...]:
        """Random inputs."""
        heads, key_width, width = self.shape
        q, k = torch.randn(2, 1, heads, length, key_width)
        v = torch.randn(1, heads, length, width)
        return (k, v) if self.recurrent else (q, k, v)

    def start(self) -> Any:
        """The state of no positions."""
        heads, key_width, width = self.shape
        return self.module.init_state(*((1,) if self.recurrent else (1, heads, key_width, width)))

    def steps(self, state: Any) -> Callable[[], None]:
        """A function that takes in one more position in every call."""
        new = self.draw(1)

        def step() -> None:
            nonlocal state
            state = self.module.step(*new, state)[1]

        return step

    def difference(self, length: int) -> float:
        """Largest difference between a stream and the whole, relative to the largest output."""
        inputs = self.draw(length)
        whole = self.module(*inputs, mask=None if self.recurrent else masks.causal())
        state, outs = self.start(), []
        for part in zip(*(x.split([length - sum(TAIL), *TAIL], 2) for x in inputs), strict=True):
            advance = self.module.step if part[0].shape[2] == 1 else self.module.prefill
            out, state = advance(*part, state)
            outs.append(out)
        return float((torch.cat(outs, 2) - whole).abs().max() / whole.abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--positions", type=int, nargs="+", default=[1024, 16384])
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--based-key-dim", type=int, default=16, help="key width of based")
    parser.add_argument("--repeats", type=int, default=101)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"torch {torch.__version__}, 1 thread, float32, {arguments.heads} heads of "
        f"{arguments.head_dim} (based: keys of {arguments.based_key_dim})"
    )
    heads = [f"{n:,}: {what}" for n in arguments.positions for what in ("state bytes", "µs / step")]
    print(f"| mechanism | full | {' | '.join(heads)} |")
    print("|---" * (len(heads) + 2) + "|")
    for name in arguments.names or [name for name in NAMES if name in catalogue()]:
        stream = Stream(name, arguments.heads, arguments.head_dim, arguments.based_key_dim)
        with torch.inference_mode():
            cells = [name, f"{stream.difference(min(arguments.positions)):.0e}"]
            for positions in arguments.positions:
                state = stream.start()
                for _ in range(positions // 1024):
                    state = stream.module.prefill(*stream.draw(1024), state)[1]
                step = median_seconds(stream.steps(state), arguments.repeats)
                cells += [f"{storage(state):,}", f"{1e6 * step:.0f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

"""Live books: the time from one update to its class scores, along a stream.

    python scripts/benchmarks/book_updates.py --updates 1000000

`StreamingLOB.live()` takes in one row after another on one thread. Each update is timed by the
clock, and each tenth of the stream gets a line: its median and 99th percentile in microseconds
and the bytes that are kept, which do not grow. `--plain` times `StreamingLOB.step` instead.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from domains.finance.models import LiveBook, StreamingLOB

ROWS = 4096


def kept_bytes(kept: object) -> int:
    """Return the bytes of all memory behind the tensors in a live book or a state."""
    blocks: dict[int, int] = {}
    _collect(kept, blocks)
    return sum(blocks.values())


def _collect(kept: object, blocks: dict[int, int]) -> None:
    if isinstance(kept, Tensor):
        blocks[kept.untyped_storage().data_ptr()] = kept.untyped_storage().nbytes()
    elif isinstance(kept, tuple | list):
        for one in kept:
            _collect(one, blocks)
    elif hasattr(kept, "__dict__"):
        _collect(list(vars(kept).values()), blocks)


def stepper(model: StreamingLOB) -> Callable[[Tensor], Tensor]:
    """Return the plain step on one stream as a function of the row."""
    state = model.init_state(1)

    def update(row: Tensor) -> Tensor:
        nonlocal state
        scores, state = model.step(row.unsqueeze(0), state)
        return scores

    return update


def measure(update: Callable[[Tensor], Tensor], rows: list[Tensor], count: int) -> np.ndarray:
    """Return the nanoseconds of each of `count` updates."""
    spent = np.empty(count, dtype=np.int64)
    clock = time.perf_counter_ns
    for index in range(count):
        row = rows[index % ROWS]
        start = clock()
        update(row)
        spent[index] = clock() - start
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=1_000_000)
    parser.add_argument("--features", type=int, default=46)
    parser.add_argument("--attention", default=None)
    parser.add_argument("--plain", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes = {"lookback": 128, "features": arguments.features}
    model = StreamingLOB(**sizes, attention=arguments.attention).eval()
    live: LiveBook = model.live()
    rows = list(torch.randn(ROWS, arguments.features).unbind())
    tenth = max(1, arguments.updates // 10)
    print(f"torch {torch.__version__}, 1 thread, {arguments.features} features")
    print("| updates | median us | 99th percentile us | bytes |")
    print("|---|---|---|---|")
    with torch.inference_mode():
        update = stepper(model) if arguments.plain else live.update
        measure(update, rows, 200)
        gc.collect()
        gc.freeze()
        for part in range(10):
            spent = measure(update, rows, tenth)
            median, high = np.percentile(spent, (50, 99)) / 1e3
            kept = "" if arguments.plain else f"{kept_bytes(live):,}"
            print(f"| {(part + 1) * tenth:,} | {median:.1f} | {high:.1f} | {kept} |", flush=True)


if __name__ == "__main__":
    main()

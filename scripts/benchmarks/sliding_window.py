"""Sliding windows over a large volume: peak memory and time, beside MONAI's.

    python scripts/benchmarks/sliding_window.py
    python scripts/benchmarks/sliding_window.py --interleaved 3 --size 192 192 160 --window 96 96 64

Every way goes from the same float32 volume to the class of each voxel, with the same windows, the
same Gaussian and the same net (one convolution, so that the windows count and not the net), each
in a process of its own, in turn. `rows` takes classes from rows as they are finished; `gathered`
keeps all probabilities first, as resampling needs them; the others are MONAI's
`sliding_window_inference`, plain and buffered. Peak memory is the largest resident set of the
process, of which `start` was there before the first window: libraries and the volume.
With `--interleaved` the ways take turns in one process, and only their time is measured.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np
import torch
from timing import interleaved
from torch import Tensor, nn

from domains.medical.inference import finished_rows, gather

CPU = torch.device("cpu")
WAYS = ("rows", "gathered", "monai", "monai-buffered")
OVERLAP, BATCH = 0.5, 2


def classes(way: str, net: nn.Module, array: np.ndarray, window: Sequence[int]) -> np.ndarray:
    """Return uint8 `[*grid]`, the class of every voxel."""
    mask = np.empty(array.shape[1:], dtype=np.uint8)
    done = 0
    for rows in _probabilities(way, net, array, window):
        for row in rows.unbind(1):
            mask[done] = row.argmax(0)
            done += 1
    return mask


def _probabilities(
    way: str, net: nn.Module, array: np.ndarray, window: Sequence[int]
) -> Iterable[Tensor]:
    @torch.inference_mode()
    def function(image: Tensor) -> Tensor:
        return net(image).softmax(1)

    if way.startswith("monai"):
        from monai.inferers.utils import sliding_window_inference

        steps = 1 if way == "monai-buffered" else None
        image = torch.from_numpy(array)[None]
        with torch.inference_mode():
            whole = sliding_window_inference(
                image,
                window,
                BATCH,
                function,
                OVERLAP,
                "gaussian",
                buffer_steps=steps,
                buffer_dim=0,
            )
        assert isinstance(whole, Tensor)
        return [whole[0]]
    rows = finished_rows(
        function, array, window=window, overlap=OVERLAP, batch_size=BATCH, device=CPU
    )
    return rows if way == "rows" else [gather(rows, array.shape[1:])]


def measure(way: str, size: Sequence[int], window: Sequence[int], count: int) -> dict[str, float]:
    """Return seconds and GiB of one way; to be called once in a process."""
    net, array = _inputs(size, count)
    if way.startswith("monai"):
        import monai.inferers.utils  # noqa: F401
    start, began = _peak(), time.process_time()
    mask = classes(way, net, array, window)
    seconds = time.process_time() - began
    share = np.bincount(mask[::7].ravel(), minlength=count) / mask[::7].size
    return {"seconds": seconds, "start": start, "peak": _peak(), "least_share": float(share.min())}


def seconds(
    ways: Sequence[str], size: Sequence[int], window: Sequence[int], count: int, rounds: int
) -> dict[str, float]:
    """Return the least CPU seconds of each way over rounds in turn."""
    net, array = _inputs(size, count)
    calls = {way: partial(classes, way, net, array, window) for way in ways}
    return interleaved(calls, rounds)


def _inputs(size: Sequence[int], count: int) -> tuple[nn.Module, np.ndarray]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = nn.Conv3d(1, count, 3, padding=1).eval()
    return net, np.random.default_rng(0).standard_normal((1, *size), dtype=np.float32)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, nargs=3, default=[512, 512, 600])
    parser.add_argument("--window", type=int, nargs=3, default=[128, 128, 128])
    parser.add_argument("--classes", type=int, default=5)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--interleaved", type=int, default=0, metavar="ROUNDS")
    parser.add_argument("--one", action="store_true", help="measure the first way here, as JSON")
    arguments = parser.parse_args()
    if arguments.one:
        size, window = arguments.size, arguments.window
        print(json.dumps(measure(arguments.ways[0], size, window, arguments.classes)))
        return
    print(f"torch {torch.__version__}, 1 thread, {arguments.classes} classes, ", end="")
    print(f"{arguments.size} voxels in windows of {arguments.window}, overlap {OVERLAP}")
    if arguments.interleaved:
        taken = seconds(
            arguments.ways,
            arguments.size,
            arguments.window,
            arguments.classes,
            arguments.interleaved,
        )
        for way, least in taken.items():
            print(f"| {way} | {least:.2f} s |")
        return
    print("| way | CPU s | GiB at start | peak GiB |")
    print("|---|---|---|---|")
    for way in arguments.ways:
        command = [sys.executable, *sys.argv, "--one", "--ways", way]
        run = json.loads(subprocess.check_output(command))
        numbers = f"{run['seconds']:.1f} | {run['start']:.2f} | {run['peak']:.2f}"
        print(f"| {way} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()

"""Fair timings: callables take turns, so that a busy machine slows all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
import torch


def interleaved(
    calls: Mapping[str, Callable[[], object]], *, rounds: int, device: torch.device
) -> dict[str, float]:
    """Return the median seconds of each call over `rounds` turns, after one turn of warm-up.

    On the CPU the processor time of this process is measured, which other processes do not
    change; on CUDA the wall time up to a synchronisation.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            taken = _seconds(call, device)
            if turn > 0:
                seconds[name].append(taken)
    return {name: float(np.median(taken)) for name, taken in seconds.items()}


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    if device.type == "cpu":
        start = time.process_time()
        call()
        return time.process_time() - start
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    call()
    torch.cuda.synchronize(device)
    return time.perf_counter() - start

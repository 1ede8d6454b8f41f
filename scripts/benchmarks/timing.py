"""Timing two or more ways of computing the same thing, fairly on a shared machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch


def interleaved(ways: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the least seconds of each way, each timed once per round, in turn.

    On CPU the processor time of the whole process is read, which other programs hardly disturb
    (with several threads it is the sum over them); on CUDA the clock, after synchronising.
    """
    best = dict.fromkeys(ways, float("inf"))
    for way in ways.values():
        way()
    for _ in range(repeats):
        for name, way in ways.items():
            start = _now()
            way()
            best[name] = min(best[name], _now() - start)
    return best


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()

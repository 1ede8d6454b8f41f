"""The process that measures one cell."""

from __future__ import annotations

import signal
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

import torch

from shared_attention import catalogue
from shared_runtime.attention_benchmark import arms, errors
from shared_runtime.attention_benchmark.arms import Arm
from shared_runtime.attention_benchmark.cells import BASELINE, Cell, Settings
from shared_runtime.attention_benchmark.memory import limit_memory, peak_of, ran_out
from shared_runtime.memory import keep_freed_memory

SHORT = 64
"""Length of a first call, after which code and tables are in memory."""


def serve(
    pipe: Connection, cell: Cell, settings: Settings, passes: Sequence[str], beside: bool
) -> None:
    """Measure a cell and send a dict for each pass, after an empty one once ready.

    Args:
        pipe: Where to send to.
        cell: What to measure.
        settings: How.
        passes: Which of `cells.PASSES`, in order.
        beside: Whether to time the baseline in turns with it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_freed_memory()
    torch.set_num_threads(settings.threads)
    limit_memory(settings.limit_gib, torch.device(settings.device))
    pipe.send({})
    done = 0
    try:
        for found in measure(cell, settings, passes, beside):
            pipe.send(found)
            done += 1
    except Exception as error:
        status = "memory" if ran_out(error) else "failed"
        detail = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        for _ in passes[done:]:
            pipe.send({"status": status, "detail": detail})
    finally:
        pipe.close()


def measure(
    cell: Cell, settings: Settings, passes: Sequence[str], beside: bool
) -> Iterator[dict[str, Any]]:
    """Yield what was found for each pass: time, memory and, after the forward pass, errors."""
    device = torch.device(settings.device)
    torch.manual_seed(settings.seed)
    _first_calls(cell, settings, passes)
    arm = arms.build(cell, settings)
    rival = arms.baseline(cell, settings) if beside and cell.family != BASELINE else None
    for name in passes:
        calls = [arm.call(name)] if rival is None else [arm.call(name), rival.call(name)]
        began = time.perf_counter()
        out, peak = peak_of(calls[0], device)
        took = time.perf_counter() - began
        found: dict[str, Any] = {"status": "ok", "peak_bytes": peak}
        found |= timed(calls, settings, took)
        if isinstance(out, torch.Tensor):
            found |= _errors(cell, settings, arm, out)
        yield found


def timed(calls: Sequence[Callable[[], object]], settings: Settings, took: float) -> dict[str, Any]:
    """Time one or two calls in turns, as often as the budget allows, at least once.

    Args:
        calls: The mechanism's and perhaps the baseline's.
        settings: Budget and most rounds.
        took: Seconds of a first call of the first.
    """
    wall = settings.device != "cpu" or settings.threads > 1
    rounds: list[list[float]] = []
    spent = 0.0
    if took < settings.budget:
        for call in calls[1:]:
            spent += _seconds(call, wall)
        spent = 0.0
    while not rounds or (len(rounds) < settings.rounds and spent < settings.budget):
        rounds.append([_seconds(call, wall) for call in calls])
        spent += sum(rounds[-1])
    medians = [statistics.median(times) for times in zip(*rounds, strict=True)]
    return {
        "rounds": len(rounds),
        "seconds": medians[0],
        "baseline_seconds": medians[1] if len(medians) > 1 else None,
    }


def _first_calls(cell: Cell, settings: Settings, passes: Sequence[str]) -> None:
    short = arms.build(replace(cell, length=min(SHORT, cell.length)), settings)
    for name in passes:
        short.call(name)()


def _errors(cell: Cell, settings: Settings, arm: Arm, noisy: torch.Tensor) -> dict[str, float]:
    if cell.family == BASELINE or cell.mechanism not in errors.KINDS:
        return {}
    causal = cell.mask == "causal"
    inputs = errors.related(settings, cell.length)
    with torch.inference_mode():
        out = arm.run(**inputs)
    return {
        "error_noise": errors.relative_error(noisy, **arm.inputs, causal=causal),
        "error_related": errors.relative_error(out, **inputs, causal=causal),
    }


def _seconds(call: Callable[[], object], wall: bool) -> float:
    """Time one call by the clock, or by the processor time of this process."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    clock = time.perf_counter if wall else time.process_time
    start = clock()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - start


def kind_of(cell: Cell) -> str:
    """Return the kind of error that a cell has; see `errors.KINDS`."""
    return "exact" if cell.family == BASELINE else errors.kind(catalogue()[cell.mechanism])

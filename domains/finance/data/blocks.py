"""Rows in blocks that stay in the processor's cache, several of them at a time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pyarrow as pa

Result = TypeVar("Result")
_MOST_THREADS = 4


def in_blocks(work: Callable[[int, int], Result], rows: int, size: int) -> list[Result]:
    """Return `work(start, stop)` of each block of at most `size` rows, in their order.

    The threads are as many as pyarrow takes (`pyarrow.set_cpu_count`), at most 4.
    """
    return in_threads(
        lambda start: work(start, min(start + size, rows)), list(range(0, rows, size))
    )


def in_threads(work: Callable[[int], Result], items: list[int]) -> list[Result]:
    """Return `work` of each item, in their order."""
    threads = min(_MOST_THREADS, pa.cpu_count(), len(items))
    if threads < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, items))

"""Keeping freed memory in the process, so that training steps do not ask for it anew."""

from __future__ import annotations

import ctypes
import functools

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_BLOCK = 2**30


@functools.cache
def keep_freed_memory() -> bool:
    """Let glibc's allocator keep what is freed instead of returning it to the system.

    A training step frees and allocates the same tensors again and again; by default large ones go
    back to the system each time, and every page of the next one costs a fault. The process holds
    its peak memory until it ends.

    Returns:
        Whether the allocator could be told; False where it is not glibc's.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    largest = mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK)
    trim = mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    return bool(largest and trim)

"""The most memory a call holds, and a limit on what a process may take.

On CUDA PyTorch's allocator knows both. On the CPU the peak of the resident memory of this process
is read (Linux and macOS), so a process measures one cell; the limit is one of address space
(Linux).
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path

import torch

GIB = 2**30
_FULL = ("can't allocate memory", "not enough memory", "cannot allocate memory", "bad_alloc")


def peak_of(call: Callable[[], object], device: torch.device) -> tuple[object, int | None]:
    """Call once; return what came and the most bytes held meanwhile above those held before.

    On the CPU the peak is that of the process so far, None where the system does not tell.
    """
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        result = call()
        return result, torch.cuda.max_memory_allocated(device) - before
    held = resident()
    result = call()
    most = _most_resident()
    return result, None if held is None or most is None else max(0, most - held)


def resident() -> int | None:
    """Return the bytes of this process in memory now, after giving back what is free."""
    _trim()
    pages = _statm()
    return _most_resident() if pages is None else pages[1]


def limit_memory(gib: float, device: torch.device) -> None:
    """Let allocations fail that would take this process beyond so much more memory."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, gib * GIB / total), device)
        return
    pages = _statm()
    if pages is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (pages[0] + int(gib * GIB),) * 2)


def ran_out(error: BaseException) -> bool:
    """Say whether an error tells of memory that was not to be had."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(said in text for said in _FULL)


def _statm() -> tuple[int, int] | None:
    """Address space and resident memory in bytes."""
    file = Path("/proc/self/statm")
    if not file.exists():
        return None
    import resource

    size, held = file.read_text("ascii").split()[:2]
    return int(size) * resource.getpagesize(), int(held) * resource.getpagesize()


def _most_resident() -> int | None:
    """Peak of resident memory, bytes; Linux's `ru_maxrss` may be the parent's before exec."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text("ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return None
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _trim() -> None:
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)

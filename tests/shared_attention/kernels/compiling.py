"""Compiling kernels for GPUs that are not there: what they need is read from the machine code."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


class Resources(NamedTuple):
    """What a program of a compiled kernel takes."""

    kernel: str
    registers: int
    spilled: int
    """Bytes of local memory per thread: 0 where every value has a register."""
    shared: int
    """Bytes of shared memory."""
    warps: int


@contextmanager
def compiled_only(capability: int) -> Iterator[list[Resources]]:
    """Compile kernels instead of launching them, for an NVIDIA GPU of this capability.

    Args:
        capability: Such as 90 for a Hopper GPU.
    """
    found: list[Resources] = []

    def select(kernel: Any, grid: object) -> Any:
        def compile_it(*args: Any, **options: Any) -> None:
            found.append(_resources(kernel.run(*args, grid=grid, warmup=True, **options)))

        return compile_it

    before, launch = driver._active, JITFunction.__getitem__
    driver.set_active(
        SimpleNamespace(  # type: ignore[arg-type]
            get_current_target=lambda: GPUTarget("cuda", capability, 32),
            get_current_device=lambda: -capability,
            get_current_stream=lambda device: 0,
        )
    )
    JITFunction.__getitem__ = select
    try:
        yield found
    finally:
        JITFunction.__getitem__ = launch
        driver._active = before


def _resources(kernel: Any) -> Resources:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        text = subprocess.run(
            [str(TOOLS / "cuobjdump"), "-res-usage", file.name],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    registers, stack, local = (
        int(re.search(rf"{what}:(\d+)", text)[1])  # type: ignore[index]
        for what in ("REG", "STACK", "LOCAL")
    )
    meta = kernel.metadata
    return Resources(meta.name, registers, stack + local, meta.shared, meta.num_warps)

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

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from shared_attention.kernels import blocks
from shared_attention.kernels.scan import scan

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


def compile_kernels(name: str, capability: int, width: int, dtype: torch.dtype) -> list[Resources]:
    """Compile the kernels of one mechanism, forward and backward, and say what they take.

    Args:
        name: "linear", "gated", "window", "landmark" or "decode".
        capability: Of the GPU, such as 90.
        width: Of keys and values.
        dtype: Of the tensors.
    """
    q, k, v = (torch.zeros(1, 2, 256, width, dtype=dtype, requires_grad=True) for _ in range(3))
    threaded = torch.autograd.is_multithreading_enabled()
    torch.autograd.set_multithreading_enabled(False)
    try:
        with compiled_only(capability) as found:
            if name == "decode":
                from shared_attention.mechanisms.lean_kernel import decode

                with torch.no_grad():
                    decode(q[:, :, :1], k, v, None, scale=None, workers=8, causal=False)
                return found
            if name in ("linear", "gated"):
                decay = torch.zeros(1, 2, 256, width) if name == "gated" else None
                out = scan(q, k, v, decay, normalised=name == "linear")[0]
            elif name == "window":
                out = blocks.window(q, k, v, left=128, right=0)
            else:
                place = torch.arange(256, dtype=torch.int32)[None]
                real = torch.full((1,), 256, dtype=torch.int32)
                reach = blocks.Reach(0, 0, 64, True, place // 64, place, real)
                out = blocks.landmarks(q, k, v, reach=reach, scale=1.0)
            out.sum().backward()
    finally:
        torch.autograd.set_multithreading_enabled(threaded)
    return found

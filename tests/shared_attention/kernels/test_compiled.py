"""Kernels compile for GPUs that are not there, and fit into their shared memory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton")
compiling = pytest.importorskip("tests.shared_attention.kernels.compiling")

SHARED = {80: 163 * 1024, 90: 227 * 1024}
"""Bytes of shared memory that one program may have."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not Path(compiling.TOOLS, "ptxas").exists() or os.environ.get("TRITON_INTERPRET") == "1",
        reason="triton comes without its assembler, or is interpreting",
    ),
]


@pytest.mark.parametrize("capability", SHARED)
@pytest.mark.parametrize("kernel", ["linear", "gated", "window", "landmark", "decode"])
@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_kernels_compile_and_fit(capability, kernel, width, dtype):
    found = compiling.compile_kernels(kernel, capability, width, dtype)
    assert found
    assert all(each.shared <= SHARED[capability] for each in found), found

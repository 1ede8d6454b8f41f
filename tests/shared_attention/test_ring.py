"""Processes that each hold a part of the sequence get what one process would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from shared_attention import UnsupportedError, masks
from shared_attention.ring import ring_attention

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("count", [2, 3])
def test_processes_in_a_ring_equal_full_attention(tmp_path, count):
    command = (sys.executable, "-m", "tests.shared_attention.ring_process")
    started = [
        subprocess.Popen(
            [*command, str(rank), str(count), str(tmp_path / "store")],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    errors = [process.communicate(timeout=100)[1] for process in started]
    assert [process.returncode for process in started] == [0] * count, "\n".join(errors)


def test_other_masks_and_unequal_parts_are_refused():
    q = torch.randn(1, 2, 6, 4)
    with pytest.raises(UnsupportedError, match="mask got another kind"):
        ring_attention(q, q, q, mask=masks.window(2, 0))
    with pytest.raises(ValueError, match="got 6 queries and 5 keys"):
        ring_attention(q, q[:, :, 1:], q[:, :, 1:])

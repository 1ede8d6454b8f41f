"""Triton kernels equal their references, interpreted on processors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def test_kernels_agree_when_interpreted():
    pytest.importorskip("triton")
    cases = "tests/shared_attention/kernels/interpreted.py"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", cases],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_import_loads_no_triton():
    code = (
        "import sys, shared_attention.kernels.scan, shared_attention.kernels.blocks\n"
        "import shared_attention.registry as r\n"
        "r.catalogue()\n"
        "assert not any(name.endswith('_kernels') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)

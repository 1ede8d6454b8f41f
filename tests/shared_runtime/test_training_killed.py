"""Training stopped by signals at random moments ends as if it had never been stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run_and_stop(out: Path, seed: int, *signals: str) -> tuple[dict, str]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.shared_runtime.killed_training", out, str(seed), *signals],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return json.loads(done.stdout), done.stderr


def test_killed_three_times_and_resumed(tmp_path: Path) -> None:
    result, _ = run_and_stop(tmp_path, 0, "KILL", "KILL", "KILL")
    assert -9 in result["codes"]
    assert result["codes"][-1] == 0
    assert result["same_weights"]
    assert result["same_history"]


def test_interrupted_by_signals_it_saves_and_says_how_to_resume(tmp_path: Path) -> None:
    result, printed = run_and_stop(tmp_path, 1, "INT", "TERM")
    assert 130 in result["codes"]
    assert "the same command with --resume continues from there" in printed
    assert "Traceback" not in printed
    assert result["same_weights"]
    assert result["same_history"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_ten_times_and_resumed(tmp_path: Path, seed: int) -> None:
    result, _ = run_and_stop(tmp_path, seed, *["KILL"] * 10)
    assert result["codes"].count(-9) >= 8
    assert result["same_weights"]
    assert result["same_history"]

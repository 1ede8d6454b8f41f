"""Two processes train, die, and resume to the same weights; no validation item counts twice."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.shared_runtime.training_toys import toy_data

ROOT = Path(__file__).parents[2]


def train(*arguments: object) -> int:
    done = subprocess.run(
        [sys.executable, "-m", "tests.shared_runtime.distributed_training", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode in (0, 9), done.stderr
    return done.returncode


@pytest.mark.slow
def test_two_processes_resume_exactly_and_score_every_item_once(tmp_path: Path) -> None:
    quiet, stopped = tmp_path / "quiet", tmp_path / "stopped"
    assert train(quiet) == 0
    assert train(stopped, "--die-at", 8) == 9
    assert train(stopped, "--resume") == 0
    first = torch.load(quiet / "final.pt", weights_only=True)
    second = torch.load(stopped / "final.pt", weights_only=True)
    assert all(torch.equal(first[name], second[name]) for name in first)
    model = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.3), nn.Linear(16, 1)).eval()
    model.load_state_dict(first)
    val = toy_data().val
    with (quiet / "history.csv").open() as lines:
        best = min(float(row["val_loss"]) for row in csv.DictReader(lines))
    assert best == pytest.approx(nn.functional.mse_loss(model(val.x), val.y).item(), rel=1e-5)

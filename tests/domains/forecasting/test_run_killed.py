"""The real command killed at random moments and resumed ends as if it had never been stopped."""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

ROOT = Path(__file__).parents[3]
RUN = "from domains.forecasting.cli import main; main()"
SETTINGS = (
    "data.lookback=24",
    "data.horizon=12",
    "model.d_model=8",
    "model.num_heads=2",
    "model.d_ff=16",
    "model.encoder_layers=1",
    "model.dropout=0.2",
    "training.batch_size=16",
    "training.checkpoint_every=3",
    "training.learning_rate=0.003",
    "training.patience=0",
    "device=cpu",
)


class Command:
    """The command in a process of its own, started from nothing."""

    def __init__(self, arguments: list[str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUN, *arguments],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )

    def poll(self) -> int | None:
        return self.process.poll()

    def kill(self) -> None:
        self.process.kill()

    def wait(self) -> int:
        return self.process.wait()


def run_command(arguments: list[str]) -> None:
    torch.set_num_threads(1)
    sys.argv = ["heed-forecasting", *arguments]
    from domains.forecasting.cli import main

    main()


class Forked:
    """The command in a process forked from one that has imported what it needs."""

    def __init__(self, arguments: list[str]) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["domains.forecasting.domain", "shared_runtime.verbs.train"])
        self.process = context.Process(target=run_command, args=(arguments,))
        self.process.start()

    def poll(self) -> int | None:
        return self.process.exitcode

    def kill(self) -> None:
        self.process.kill()

    def wait(self) -> int:
        self.process.join()
        assert self.process.exitcode is not None
        return self.process.exitcode


Start = Callable[[list[str]], Command | Forked]


def arguments(data: Path, out: Path, epochs: int, *options: str) -> list[str]:
    sets = [part for setting in SETTINGS for part in ("--set", setting)]
    sets += ["--set", f"training.epochs={epochs}"]
    given = ["train", "--data", data, "--model", "Informer", "--out", out, "-q", *sets, *options]
    return [str(part) for part in given]


def await_checkpoints(process: Command | Forked, out: Path, most: float = math.inf) -> int:
    """Return the number of checkpoints seen written, at most `most`, before training ends."""
    seen, last = 0, written(out)
    while process.poll() is None and seen < most and not (out / "model.json").exists():
        time.sleep(0.002)
        if (now := written(out)) != last:
            seen, last = seen + 1, now
    return seen


def written(out: Path) -> int:
    path = out / "last.ckpt"
    return path.stat().st_mtime_ns if path.exists() else 0


def result(out: Path) -> dict[str, object]:
    history = pd.read_csv(out / "history.csv").drop(columns="seconds")
    return {
        "sha256": hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest(),
        "history": history.to_csv(index=False),
        "metrics": json.loads((out / "metrics.json").read_text()),
    }


def kill_and_resume(start: Start, data: Path, out: Path, *, epochs: int, kills: int) -> int:
    """Compare a quiet run with one killed mid-epoch; return how many kills met a live run."""
    quiet, stopped = out / "quiet", out / "stopped"
    rng = random.Random(kills)
    process = start(arguments(data, quiet, epochs))
    begun = time.monotonic()
    total = await_checkpoints(process, quiet)
    seconds = time.monotonic() - begun
    assert process.wait() == 0
    killed = 0
    for _ in range(kills):
        process = start(arguments(data, stopped, epochs, "--resume"))
        await_checkpoints(process, stopped, most=rng.randint(1, total // (kills + 1)))
        time.sleep(rng.uniform(0, 2 * seconds / total))
        process.kill()
        killed += process.wait() == -signal.SIGKILL
        if (stopped / "metrics.json").exists():
            break
    else:
        assert start(arguments(data, stopped, epochs, "--resume")).wait() == 0
    expected, found = result(quiet), result(stopped)
    print(f"{killed} kills among {total} checkpoints, {seconds:.0f} s: {found['sha256']}")
    assert found == expected
    return killed


def test_killed_twice_and_resumed(wide_file: Path, tmp_path: Path) -> None:
    assert kill_and_resume(Forked, wide_file, tmp_path, epochs=5, kills=2) >= 1


@pytest.mark.slow
def test_killed_ten_times_on_the_sample_and_resumed(sample: Path, tmp_path: Path) -> None:
    rows = pd.read_csv(sample / "hourly.csv", dtype=str).head(1500)
    rows.to_csv(tmp_path / "hourly.csv", index=False)
    data = tmp_path / "hourly.csv"
    assert kill_and_resume(Command, data, tmp_path, epochs=12, kills=10) >= 8

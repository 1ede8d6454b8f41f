"""Train the toy in child processes, stop them at random moments, and compare with one quiet run.

`python killed_training.py OUT SEED KILL TERM ...`: one signal per child. The modules are imported
once and children are forked from this process, so that a kill costs milliseconds. Prints JSON.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from torch import nn

from shared_runtime.errors import HeedError
from shared_runtime.run_folder import RunFolder
from shared_runtime.training import TrainingConfig, fit
from tests.shared_runtime.training_toys import Regression, toy_data, toy_model

TRAINING = TrainingConfig(
    epochs=4, batch_size=8, schedule="cosine", patience=2, learning_rate=0.02, checkpoint_every=1
)


def train(out: Path, resume: bool) -> None:
    folder = RunFolder.create(out, config={"toy": 1}, resume=resume)
    model = toy_model()
    model.append(nn.Linear(1, 300_000))  # makes writing a checkpoint a good part of the time
    model.append(nn.Linear(300_000, 1))
    task = Regression(model, TRAINING)
    fit(task, toy_data(), TRAINING, folder, seed=5, device=torch.device("cpu"), resume=resume)
    torch.save(model.state_dict(), out / "final.pt")


def fork_training(out: Path, resume: bool) -> int:
    child = os.fork()
    if child:
        return child
    try:
        train(out, resume)
    except HeedError as error:
        print(error, file=sys.stderr, flush=True)
        os._exit(error.exit_code)
    os._exit(0)


def wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def history(out: Path) -> list[list[str]]:
    lines = (out / "history.csv").read_text().splitlines()
    return [line.split(",")[:-1] for line in lines]


def main() -> None:
    out, seed, *signals = sys.argv[1:]
    rng = random.Random(int(seed))
    quiet, stopped = Path(out, "quiet"), Path(out, "stopped")
    start = time.monotonic()
    codes = [wait(fork_training(quiet, False))]
    seconds = time.monotonic() - start
    states = []
    for name in signals:
        child = fork_training(stopped, True)
        time.sleep(seconds * rng.uniform(0.2, 1.6) / len(signals))
        os.kill(child, signal.Signals[f"SIG{name}"])
        codes.append(wait(child))
        states.append(sorted(path.name for path in stopped.glob("*")))
    codes.append(wait(fork_training(stopped, True)))
    first = torch.load(quiet / "final.pt", weights_only=True)
    second = torch.load(stopped / "final.pt", weights_only=True)
    print(
        json.dumps(
            {
                "codes": codes,
                "states": states,
                "same_weights": all(torch.equal(first[name], second[name]) for name in first),
                "same_history": history(quiet) == history(stopped),
                "epochs": len(history(quiet)) - 1,
            }
        )
    )


if __name__ == "__main__":
    main()

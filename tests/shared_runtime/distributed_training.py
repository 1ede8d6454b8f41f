"""Train the toy in two processes on the CPU: `python -m ... OUT [--resume] [--die-at STEP]`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
from torch import Tensor, nn

from shared_runtime.run_folder import RunFolder
from shared_runtime.training import TrainingConfig, fit
from tests.shared_runtime.training_toys import Regression, toy_data

TRAINING = TrainingConfig(
    epochs=3, batch_size=8, schedule="cosine", checkpoint_every=2, devices=2, strategy="ddp"
)


class Dying(Regression):
    die_at = -1

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        if self.global_step == self.die_at:
            os._exit(9)
        return super().training_step(batch, batch_idx)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--die-at", type=int, default=-1)
    asked = parser.parse_args()
    folder = RunFolder.create(asked.out, config={"toy": 1}, resume=asked.resume)
    torch.manual_seed(0)
    task = Dying(nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.3), nn.Linear(16, 1)), TRAINING)
    task.die_at = asked.die_at
    fit(
        task,
        toy_data(),
        TRAINING,
        folder,
        seed=0,
        device=torch.device("cpu"),
        resume=asked.resume,
    )
    torch.save(task.model.state_dict(), asked.out / "final.pt")


if __name__ == "__main__":
    main()

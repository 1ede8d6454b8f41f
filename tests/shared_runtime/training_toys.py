"""A small data set and model on which every random draw of training matters."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from shared_runtime.domain import Prepared
from shared_runtime.task import Task


class Arrays:
    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(count, 6, generator=generator)
        self.y = self.x @ torch.randn(6, 1, generator=generator) + 0.5
        self.seen: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, indices: np.ndarray) -> dict[str, Tensor]:
        self.seen.append(indices)
        rows = torch.from_numpy(indices)
        return {"x": self.x[rows], "y": self.y[rows]}


class Regression(Task):
    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        return nn.functional.mse_loss(self.model(batch["x"]), batch["y"])


def toy_data(train: int = 70, val: int = 23) -> Prepared:
    return Prepared(
        train=Arrays(train, 1),
        val=Arrays(val, 2),
        test=Arrays(11, 3),
        model_arguments={},
        preprocessing={},
        data_hash="toy",
        summary={},
    )


def toy_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 1)
    )

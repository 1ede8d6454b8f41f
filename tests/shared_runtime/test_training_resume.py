"""A run that fails between any two batches resumes to the same result, bit for bit."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from shared_runtime.domain import Prepared
from shared_runtime.errors import UsageError
from shared_runtime.run_folder import RunFolder
from shared_runtime.training import FitResult, TrainingConfig, fit
from tests.shared_runtime.training_toys import Arrays, Regression, toy_data, toy_model

BATCHES_PER_EPOCH = 9 + 3


class PowerCutError(Exception):
    pass


class Failing(Arrays):
    """Raises once `budget[0]` batches were handed out, validation batches included."""

    def __init__(self, count: int, seed: int, budget: list[int]) -> None:
        super().__init__(count, seed)
        self.budget = budget

    def batch(self, indices: np.ndarray) -> dict[str, Tensor]:
        if self.budget[0] == 0:
            raise PowerCutError
        self.budget[0] -= 1
        return super().batch(indices)


def failing_data(after: int) -> Prepared:
    budget = [after]
    return dataclasses.replace(toy_data(), train=Failing(70, 1, budget), val=Failing(23, 2, budget))


def train(
    out: Path, training: TrainingConfig, data: Prepared, *, resume: bool = False, seed: int = 3
) -> tuple[FitResult, dict[str, Tensor]]:
    task = Regression(toy_model(), training)
    result = fit(
        task, data, training, RunFolder(out), seed=seed, device=torch.device("cpu"), resume=resume
    )
    return result, task.model.state_dict()


def rows(result: FitResult) -> list[dict[str, float]]:
    return [{key: row[key] for key in row if key != "seconds"} for row in result.history]


VARIANTS: list[dict[str, Any]] = [
    {"schedule": "cosine", "warmup_steps": 4, "checkpoint_every": 1},
    {"schedule": "one_cycle", "optimizer": "sgd", "accumulate": 2, "checkpoint_every": 1},
    {"schedule": "halve", "accumulate": 4, "clip_norm": 0.1, "checkpoint_every": 2},
    {"precision": "bf16-mixed", "optimizer": "radam", "select": "last", "checkpoint_every": 3},
    {"epochs": 6, "patience": 1, "learning_rate": 0.05, "optimizer": "adamw"},
    {"average": 0.9, "accumulate": 2, "clip_norm": 0.1, "checkpoint_every": 1},
]


@pytest.mark.parametrize("number", range(len(VARIANTS)))
def test_resumed_equals_uninterrupted(tmp_path: Path, number: int) -> None:
    training = TrainingConfig(**{"epochs": 2, "batch_size": 8, **VARIANTS[number]})
    expected, weights = train(tmp_path / "quiet", training, toy_data())
    total = len(expected.history) * BATCHES_PER_EPOCH
    for cut in range(1 + number, total, 5):
        out = tmp_path / str(cut)
        with pytest.raises(PowerCutError):
            train(out, training, failing_data(cut))
        result, resumed = train(out, training, toy_data(), resume=True)
        assert rows(result) == rows(expected), cut
        assert result.selected_epoch == expected.selected_epoch
        assert all(torch.equal(weights[name], resumed[name]) for name in weights), cut
        assert columns(out / "history.csv") == columns(tmp_path / "quiet" / "history.csv")


def columns(path: Path) -> list[list[str]]:
    return [line.split(",")[:-1] for line in path.read_text().splitlines()]


def test_a_finished_run_is_returned_without_training(tmp_path: Path) -> None:
    training = TrainingConfig(epochs=3, batch_size=8, patience=1, learning_rate=0.2)
    expected, weights = train(tmp_path, training, toy_data())
    result, again = train(tmp_path, training, failing_data(0), resume=True)
    assert result.history == expected.history
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_resuming_with_other_settings_names_them(tmp_path: Path) -> None:
    training = TrainingConfig(epochs=1, batch_size=8)
    train(tmp_path, training, toy_data())
    other = TrainingConfig(epochs=2, batch_size=16, checkpoint_every=5)
    with pytest.raises(UsageError) as caught:
        train(tmp_path, other, toy_data(), resume=True, seed=4)
    assert str(caught.value) == (
        f"cannot resume {tmp_path}: seed (was 3, now 4), training.batch_size (was 8, now 16), "
        "training.epochs (was 1, now 2) changed; "
        "ask for the same settings, or train anew with another --out"
    )


def test_resuming_on_other_data_is_refused(tmp_path: Path) -> None:
    training = TrainingConfig(epochs=1, batch_size=8)
    train(tmp_path, training, toy_data())
    changed = dataclasses.replace(toy_data(), data_hash="other")
    with pytest.raises(UsageError, match=r"data \(was 'toy', now 'other'\) changed"):
        train(tmp_path, training, changed, resume=True)


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    training = TrainingConfig(epochs=1, batch_size=8)
    _, first = train(tmp_path / "a", training, toy_data(), seed=3)
    _, second = train(tmp_path / "b", training, toy_data(), seed=4)
    assert not torch.equal(first["0.weight"], second["0.weight"])

"""Losses, selection, schedules and what happens when numbers stop being finite."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from shared_runtime.domain import Prepared
from shared_runtime.errors import DataError, UsageError
from shared_runtime.run_folder import RunFolder
from shared_runtime.task import Task, schedule_factor
from shared_runtime.training import FitResult, TrainingConfig, TrainingError, fit
from tests.shared_runtime.training_toys import Arrays, Regression, toy_data, toy_model

CPU = torch.device("cpu")


def run(out: Path, task: Task, data: Prepared, training: TrainingConfig) -> FitResult:
    return fit(task, data, training, RunFolder(out), seed=0, device=CPU)


def test_val_loss_is_the_mean_over_items_not_over_batches(tmp_path: Path) -> None:
    training = TrainingConfig(epochs=1, batch_size=10)
    data = toy_data(val=23)
    task = Regression(toy_model(), training)
    result = run(tmp_path, task, data, training)
    task.model.eval()
    with torch.no_grad():
        errors = (task.model(data.val.x) - data.val.y).square()
    assert result.history[0]["val_loss"] == pytest.approx(errors.double().mean().item(), rel=1e-6)
    by_batch = [part.mean().item() for part in errors.split(10)]
    assert result.history[0]["val_loss"] != pytest.approx(np.mean(by_batch), rel=1e-6)


class Recording(Regression):
    def __init__(self, model: nn.Module, training: TrainingConfig) -> None:
        super().__init__(model, training)
        self.seen: list[tuple[int, float]] = []

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        loss = super().loss(batch)
        if self.training:
            self.seen.append((len(batch["x"]), loss.item()))
        return loss


def test_train_loss_weighs_the_last_batch_by_its_size(tmp_path: Path) -> None:
    training = TrainingConfig(epochs=1, batch_size=16)
    task = Recording(toy_model(), training)
    result = run(tmp_path, task, toy_data(train=70), training)
    assert [size for size, _ in task.seen] == [16, 16, 16, 16, 6]
    expected = math.fsum(size * loss for size, loss in task.seen) / 70
    assert result.history[0]["train_loss"] == pytest.approx(expected, rel=1e-12)


class Scripted(Task):
    """Validation losses follow a script; the weight counts the training steps."""

    def __init__(self, training: TrainingConfig, script: list[float]) -> None:
        super().__init__(nn.Linear(1, 1, bias=False), training)
        nn.init.zeros_(self.model.weight)
        self.script = script

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        if self.training:
            return -self.model.weight.sum()
        return torch.tensor(self.script[self.current_epoch])


@pytest.mark.parametrize(
    ("settings", "script", "epochs", "kept"),
    [
        ({"patience": 2}, [3.0, 2.0, 2.5, 2.0, 1.0], 4, 2),
        ({"patience": 2, "select": "last"}, [3.0, 2.0, 2.5, 2.0, 1.0], 4, 4),
        ({"patience": 0}, [1.0, 2.0, 2.0, 2.0, 2.0], 5, 1),
        ({"patience": 3}, [3.0, 2.0, 2.5, 2.0, 1.0], 5, 5),
    ],
)
def test_early_stopping_and_the_epoch_that_is_kept(
    tmp_path: Path, settings: dict[str, Any], script: list[float], epochs: int, kept: int
) -> None:
    training = TrainingConfig(
        epochs=5, batch_size=70, optimizer="sgd", learning_rate=1.0, **settings
    )
    task = Scripted(training, script)
    result = run(tmp_path, task, toy_data(), training)
    assert [row["val_loss"] for row in result.history] == script[:epochs]
    assert result.selected_epoch == kept
    assert task.model.weight.item() == kept


class Poisoned(Arrays):
    def batch(self, indices: np.ndarray) -> dict[str, Tensor]:
        batch = super().batch(indices)
        batch["y"][torch.from_numpy(indices) == 13] = math.nan
        return batch


def test_a_loss_that_is_not_finite_stops_with_step_and_items(tmp_path: Path) -> None:
    training = TrainingConfig(epochs=3, batch_size=8, checkpoint_every=1)
    data = dataclasses.replace(toy_data(), train=Poisoned(70, 1))
    task = Regression(toy_model(), training)
    with pytest.raises(TrainingError) as caught:
        run(tmp_path, task, data, training)
    message = str(caught.value)
    step = len(data.train.seen)
    items = ", ".join(map(str, data.train.seen[-1]))
    assert 13 in data.train.seen[-1]
    assert f"the loss became nan in epoch 1, step {step} on training items {items};" in message
    assert caught.value.exit_code == 1
    assert all(torch.isfinite(value).all() for value in task.model.parameters())


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    training = TrainingConfig(epochs=3, batch_size=8, optimizer="sgd", checkpoint_every=1)

    class Exploding(Scripted):
        def loss(self, batch: dict[str, Tensor]) -> Tensor:
            return super().loss(batch) * (math.inf if self.global_step == 4 else 1.0)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return self.loss(batch)

    with pytest.raises(TrainingError, match=r"weights model.weight are no longer finite after"):
        run(tmp_path, Exploding(training, [1.0] * 3), toy_data(), training)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 4
    assert torch.isfinite(saved["state_dict"]["model.weight"]).all()


def test_a_validation_loss_that_is_not_finite_stops(tmp_path: Path) -> None:
    training = TrainingConfig(epochs=3, batch_size=70)
    with pytest.raises(TrainingError, match="the validation loss became nan in epoch 2"):
        run(tmp_path, Scripted(training, [1.0, math.nan, 1.0]), toy_data(), training)


@pytest.mark.parametrize(("train", "val", "name"), [(0, 5, "train"), (5, 0, "val")])
def test_empty_parts_are_refused(tmp_path: Path, train: int, val: int, name: str) -> None:
    training = TrainingConfig()
    with pytest.raises(DataError, match=f"the {name} part has no items"):
        run(tmp_path, Regression(toy_model(), training), toy_data(train, val), training)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "16-mixed"}, "16-mixed needs CUDA; use bf16-mixed or 32"),
        ({"strategy": "fsdp"}, "fsdp needs CUDA; use ddp or auto"),
    ],
)
def test_settings_that_need_cuda_are_refused_on_a_cpu(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    training = TrainingConfig(**settings)
    with pytest.raises(UsageError, match=message):
        run(tmp_path, Regression(toy_model(), training), toy_data(), training)


def test_cosine_is_the_one_of_torch() -> None:
    config = TrainingConfig(schedule="cosine", learning_rate=1.0)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    peer = CosineAnnealingLR(optimizer, T_max=50)
    for step in range(50):
        factor = schedule_factor(step, config=config, total_steps=50)
        assert factor == pytest.approx(peer.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        peer.step()


def test_warm_up_rises_linearly_to_the_peak() -> None:
    config = TrainingConfig(schedule="cosine", warmup_steps=4)
    factors = [schedule_factor(step, config=config, total_steps=20) for step in range(6)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors[5] < 1.0


def test_halving_follows_the_epochs(tmp_path: Path) -> None:
    training = TrainingConfig(epochs=4, batch_size=32, schedule="halve", patience=0)
    result = run(tmp_path, Regression(toy_model(), training), toy_data(), training)
    assert [row["learning_rate"] for row in result.history] == [1e-3, 5e-4, 2.5e-4, 1.25e-4]


def test_accumulated_batches_give_the_step_of_the_large_batch(tmp_path: Path) -> None:
    weights = []
    for size, accumulate in ((32, 1), (8, 4)):
        training = TrainingConfig(
            epochs=1, batch_size=size, accumulate=accumulate, optimizer="sgd", learning_rate=0.1
        )
        torch.manual_seed(0)
        task = Regression(nn.Linear(6, 1), training)
        run(tmp_path / str(size), task, toy_data(train=96), training)
        weights.append(task.model.weight.detach())
    torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-6)


def test_lightnings_slow_cuda_check_is_off_while_training_on_a_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "PYTORCH_NVML_BASED_CUDA_CHECK"
    monkeypatch.setenv(name, "1")
    seen = []

    class Looking(Regression):
        def loss(self, batch: dict[str, Tensor]) -> Tensor:
            seen.append(os.environ.get(name))
            return super().loss(batch)

    training = TrainingConfig(epochs=1)
    run(tmp_path, Looking(toy_model(), training), toy_data(), training)
    assert set(seen) == {None}
    assert os.environ[name] == "1"

"""The moving average of weights: its formula, and that it is what is validated and kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from shared_runtime.errors import UsageError
from shared_runtime.run_folder import RunFolder
from shared_runtime.training import TrainingConfig, fit
from tests.shared_runtime.training_toys import Regression, toy_data, toy_model


class Recording(Regression):
    """Notes the weights after every optimiser step."""

    def __init__(self, training: TrainingConfig) -> None:
        super().__init__(toy_model(), training)
        self.steps: list[dict[str, Tensor]] = []

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:
        super().optimizer_step(*arguments, **named)
        self.steps.append({n: p.detach().clone() for n, p in self.model.named_parameters()})


@pytest.mark.parametrize("accumulate", [1, 4])
def test_average_of_all_steps_is_validated_and_kept(tmp_path: Path, accumulate: int) -> None:
    training = TrainingConfig(
        epochs=2, batch_size=8, average=0.8, accumulate=accumulate, select="last", patience=0
    )
    data, task = toy_data(), Recording(training)
    weights = {n: p.detach().clone() for n, p in task.model.named_parameters()}
    folder = RunFolder(tmp_path)
    result = fit(task, data, training, folder, seed=3, device=torch.device("cpu"))
    assert len(task.steps) == 2 * -(-9 // accumulate)
    for number, step in enumerate(task.steps, start=1):
        decay = min(0.8, (1 + number) / (10 + number))
        weights = {n: decay * w + (1 - decay) * step[n] for n, w in weights.items()}
    for name, value in task.model.named_parameters():
        torch.testing.assert_close(value.detach(), weights[name], rtol=1e-5, atol=1e-6)
        assert not torch.equal(value, task.steps[-1][name])
    task.eval()
    with torch.inference_mode():
        loss = float(task.loss(data.val.batch(np.arange(23))))
    assert result.history[-1]["val_loss"] == pytest.approx(loss, rel=1e-5)


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(UsageError, match=r"training.average: expected 0 to below 1, got 1"):
        TrainingConfig(average=1.0)

from __future__ import annotations

import pytest

from shared_runtime.errors import UsageError
from shared_runtime.training_config import TrainingConfig


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "training.epochs: expected at least 1, got 0"),
        ({"patience": -1}, "training.patience: expected at least 0, got -1"),
        ({"learning_rate": 0.0}, "training.learning_rate: expected more than 0, got 0.0"),
        ({"learning_rate": float("nan")}, "training.learning_rate: expected more than 0, got nan"),
        ({"weight_decay": float("nan")}, "training.weight_decay: expected at least 0, got nan"),
        (
            {"optimizer": "lion"},
            "training.optimizer: expected one of adam, adamw, radam, sgd, got 'lion'",
        ),
        (
            {"schedule": "one_cycle", "warmup_steps": 5},
            "training.warmup_steps: one_cycle warms up by itself; set warmup_steps to 0",
        ),
    ],
)
def test_bad_values_are_named(values: dict, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        TrainingConfig(**values)
    assert str(caught.value) == message


def test_it_is_frozen_and_keyword_only() -> None:
    with pytest.raises(AttributeError):
        TrainingConfig().epochs = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        TrainingConfig(3)  # type: ignore[misc]

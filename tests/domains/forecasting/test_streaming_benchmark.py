"""What the streaming benchmark prints: the state keeps its size."""

from __future__ import annotations

import torch

from domains.forecasting.models import AarenForecaster
from scripts.benchmarks.streaming import SIZES, observe, state_bytes


def test_the_state_has_the_same_bytes_after_any_number_of_observations() -> None:
    model = AarenForecaster(**SIZES).eval()
    with torch.inference_mode():
        state = observe(model, model.init_state(1), 1)
        first = state_bytes(state)
        state = observe(model, state, 300)
    window = 4 * SIZES["channels"] * model.recent
    assert first > window
    assert state_bytes(state) == first


def test_every_tensor_of_a_state_is_counted() -> None:
    nested = (
        torch.zeros(3),
        (torch.zeros(2, dtype=torch.float64), torch.zeros(5, dtype=torch.bool)),
    )
    assert state_bytes(nested) == 12 + 16 + 5

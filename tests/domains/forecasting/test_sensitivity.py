"""Lag sensitivity beside the exact Jacobian."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from domains.forecasting.models import InvertedTransformer
from domains.forecasting.sensitivity import lag_sensitivity


class Nonlinear(nn.Module):
    """Two outputs per channel from the look-back; lags listed in `unread` are never read."""

    def __init__(self, lookback: int, channels: int, unread: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.randn(lookback * channels, 3 * channels) / 4)
        self.unread = list(unread)
        self.drop = nn.Dropout(0.5)

    def forward(self, past: Tensor, past_time: Tensor, future_time: Tensor) -> Tensor:
        past = past.clone()
        past[:, self.unread] = 0
        mixed = torch.tanh(self.drop(past).flatten(1) @ self.mix)
        return mixed.unflatten(1, (3, -1)).unsqueeze(-1)


def batch(lookback: int, channels: int, horizon: int = 3) -> dict[str, Tensor]:
    return {
        "past": torch.randn(4, lookback, channels),
        "past_time": torch.rand(4, lookback, 2),
        "future_time": torch.rand(4, horizon, 2),
        "future": torch.randn(4, horizon, channels),
    }


def exact(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Root of the mean over windows and outputs of the squared derivatives, `[L, C]`."""
    rows = []
    for n in range(len(inputs["past"])):
        time = inputs["past_time"][n : n + 1], inputs["future_time"][n : n + 1]
        jacobian = torch.func.jacrev(lambda x, t=time: model(x[None], *t)[0])(inputs["past"][n])
        rows.append(jacobian.flatten(0, 2).square().mean(0))
    return torch.stack(rows).mean(0).sqrt()


@pytest.mark.parametrize("kind", ["tanh", "inverted"])
def test_many_projections_give_the_root_mean_square_jacobian(kind: str) -> None:
    if kind == "tanh":
        model: nn.Module = Nonlinear(6, 2)
    else:
        model = InvertedTransformer(
            lookback=6, horizon=3, channels=2, time_features=2, season=4, d_model=8, num_heads=2
        )
    inputs = batch(6, 2)
    model.eval()
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernel has no batching rule for jacrev
        expected = exact(model, inputs)
    found = lag_sensitivity(model, inputs, projections=2000)
    torch.testing.assert_close(found, expected, rtol=0.1, atol=1e-4)


def test_the_signs_are_those_of_the_seed() -> None:
    model, inputs = Nonlinear(6, 2), batch(6, 2)
    first = lag_sensitivity(model, inputs, seed=1)
    assert torch.equal(first, lag_sensitivity(model, inputs, seed=1))
    assert not torch.equal(first, lag_sensitivity(model, inputs, seed=2))


def test_a_lag_that_is_not_read_has_exactly_no_effect() -> None:
    found = lag_sensitivity(Nonlinear(6, 2, unread=(0, 4)), batch(6, 2))
    assert (found[[0, 4]] == 0).all()
    assert (found[[1, 2, 3, 5]] > 0).all()


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_and_the_model_is_left_as_it_was(training: bool) -> None:
    model, inputs = Nonlinear(6, 2).train(training), batch(6, 2)
    torch.testing.assert_close(
        lag_sensitivity(model, inputs, projections=2),
        lag_sensitivity(model.eval(), inputs, projections=2),
    )
    model.train(training)
    lag_sensitivity(model, inputs)
    assert model.training is training
    assert model.mix.grad is None
    assert not inputs["past"].requires_grad

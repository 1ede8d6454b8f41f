"""How much each look-back value moves the forecast, for any model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from domains.forecasting.inputs import forecaster_inputs


def lag_sensitivity(
    model: nn.Module, batch: dict[str, Tensor], *, projections: int = 8, seed: int = 0
) -> Tensor:
    """Return the root-mean-square derivative of the forecast by each look-back value, `[L, C]`.

    With `J` the Jacobian of the forecast by the look-back window and `s` a vector of random
    signs, the expectation of `(s^T J)^2` is the column sum of `J^2` (Hutchinson's estimator), so
    one backward pass for each projection serves all horizon steps and channels at once. Entry
    `[l, c]` is in standardised units: how far a unit change of channel `c`, `L - l` steps before
    the cut-off, moves the forecast.

    Args:
        model: a forecaster.
        batch: one batch of windows.
        projections: random sign vectors; the relative error falls with their square root.
        seed: seed of the signs.
    """
    was_training = model.training
    model.eval()
    inputs = forecaster_inputs(batch)
    past = inputs.pop("past").detach().requires_grad_(True)
    forecast = model(past, **inputs)
    signs = torch.Generator(device="cpu").manual_seed(seed)
    total = torch.zeros_like(past)
    for projection in range(projections):
        sign = torch.randint(0, 2, forecast.shape, generator=signs).to(forecast) * 2 - 1
        (gradient,) = torch.autograd.grad(
            forecast, past, sign, retain_graph=projection + 1 < projections
        )
        total += gradient.square()
    model.train(was_training)
    outputs = forecast[0].numel()
    return (total.mean(0) / (projections * outputs)).sqrt()

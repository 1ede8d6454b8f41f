"""Losses beside their formulas in float64, over the valid entries one by one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from domains.forecasting.losses import pinball_loss, point_loss

LEVELS = (0.1, 0.5, 0.8)
ENTRY = {
    "mse": lambda error: error**2,
    "mae": abs,
    "huber": lambda error: error**2 / 2 if abs(error) <= 1 else abs(error) - 0.5,
}


def pieces(masked: bool, outputs: int) -> tuple[Tensor, Tensor, Tensor | None]:
    forecast = (2 * torch.randn(3, 4, 2, outputs, dtype=torch.float64)).requires_grad_()
    target = torch.randn(3, 4, 2, dtype=torch.float64)
    if not masked:
        return forecast, target, None
    valid = torch.rand(3, 4, 2) > 0.4
    return forecast, target.masked_fill(~valid, torch.nan), valid


def valid_places(target: Tensor, valid: Tensor | None) -> list[list[int]]:
    return (
        (torch.ones_like(target, dtype=torch.bool) if valid is None else valid).nonzero().tolist()
    )


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", ["mse", "mae", "huber"])
def test_point_losses(kind: str, masked: bool) -> None:
    forecast, target, valid = pieces(masked, 1)
    loss = point_loss(forecast, target, valid, kind)
    places = valid_places(target, valid)
    entries = [ENTRY[kind]((forecast[b, h, c, 0] - target[b, h, c]).item()) for b, h, c in places]
    assert loss.item() == pytest.approx(math.fsum(entries) / len(places), rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, forecast)
    assert gradient.isfinite().all()
    if valid is not None:
        assert (gradient[~valid] == 0).all()


@pytest.mark.parametrize("masked", [False, True])
def test_quantile_loss(masked: bool) -> None:
    forecast, target, valid = pieces(masked, len(LEVELS))
    loss = pinball_loss(forecast, target, valid, LEVELS)
    places = valid_places(target, valid)
    entries = []
    for b, h, c in places:
        for place, level in enumerate(LEVELS):
            error = (target[b, h, c] - forecast[b, h, c, place]).item()
            entries.append(level * error if error >= 0 else (level - 1) * error)
    assert loss.item() == pytest.approx(math.fsum(entries) / len(entries), rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, forecast)
    assert gradient.isfinite().all()
    if valid is not None:
        assert (gradient[~valid] == 0).all()


def test_nothing_valid_is_no_loss() -> None:
    forecast, target, _ = pieces(False, 3)
    nothing = torch.zeros(3, 4, 2, dtype=torch.bool)
    assert point_loss(forecast[..., :1], target * torch.nan, nothing, "mse").item() == 0
    assert pinball_loss(forecast, target * torch.nan, nothing, LEVELS).item() == 0


def test_the_quantile_is_what_minimises_the_quantile_loss() -> None:
    values = torch.arange(1.0, 102.0)[:, None, None]
    grid = torch.arange(0.0, 110.0, 0.5)
    for level in (0.1, 0.5, 0.9):
        losses = [
            pinball_loss(torch.full((101, 1, 1, 1), float(g)), values, None, [level]) for g in grid
        ]
        assert grid[int(torch.stack(losses).argmin())].item() == 1 + 100 * level

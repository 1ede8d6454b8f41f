"""Losses of forecasting models, all means over the entries that are valid."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional


def point_loss(forecast: Tensor, target: Tensor, valid: Tensor | None, kind: str) -> Tensor:
    """Return the mean loss of a point forecast.

    Args:
        forecast: `[B, H, C, 1]`.
        target: `[B, H, C]`.
        valid: bool `[B, H, C]`, True where the target counts; None when all do.
        kind: `mse`, `mae` or `huber` (threshold 1, standardised units).
    """
    losses: dict[str, Callable[..., Tensor]] = {
        "mse": functional.mse_loss,
        "mae": functional.l1_loss,
        "huber": functional.huber_loss,
    }
    point = forecast.squeeze(-1)
    if valid is None:
        return losses[kind](point, target)
    entries = losses[kind](point, torch.where(valid, target, point), reduction="none")
    return entries.sum() / valid.sum().clamp(min=1)


def pinball_loss(
    forecast: Tensor, target: Tensor, valid: Tensor | None, quantiles: Sequence[float]
) -> Tensor:
    """Return the mean quantile (pinball) loss.

    Args:
        forecast: `[B, H, C, Q]`, one value for each of `quantiles`.
        target: `[B, H, C]`.
        valid: bool `[B, H, C]` or None.
        quantiles: levels in (0, 1), ascending.

    Source: Koenker and Bassett, "Regression Quantiles", 1978.
    """
    levels = torch.tensor(quantiles, dtype=forecast.dtype, device=forecast.device)
    if valid is not None:
        target = torch.where(valid, target, forecast.detach()[..., 0])
    error = target.unsqueeze(-1) - forecast
    entries = torch.maximum(levels * error, (levels - 1) * error)
    if valid is None:
        return entries.mean()
    entries = entries * valid.unsqueeze(-1)
    return entries.sum() / (valid.sum().clamp(min=1) * len(quantiles))

"""Naive forecasts that every model is put beside, on the same windows and metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from domains.forecasting.data.windows import WindowSet

Forecaster = Callable[[dict[str, Tensor]], Tensor]
"""From a batch to a point forecast `[B, H, C]`."""

_RIDGE_GRID = 10.0 ** np.arange(-2, 6)
_BATCH = 512


def batches(
    windows: WindowSet, size: int = _BATCH
) -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
    """Yield every window once, in order: indices and batch."""
    for first in range(0, len(windows), size):
        indices = np.arange(first, min(first + size, len(windows)))
        yield indices, windows.batch(indices)


def repeat_last(batch: dict[str, Tensor]) -> Tensor:
    """Repeat the last readable value of the look-back window."""
    past, valid = batch["past"], batch.get("valid")
    last = past[:, -1:]
    if valid is not None:
        place = (valid * torch.arange(1, past.shape[1] + 1)).argmax(1)
        last = past.gather(1, place[:, None, None].expand(-1, 1, past.shape[2]))
    return last.expand(-1, batch["future"].shape[1], -1)


def seasonal_naive(batch: dict[str, Tensor], season: int) -> Tensor:
    """Repeat the last season; where the window does not hold it, repeat the last value."""
    past, horizon = batch["past"], batch["future"].shape[1]
    if season > past.shape[1]:
        return repeat_last(batch)
    steps = past.shape[1] - season + torch.arange(horizon) % season
    forecast = past[:, steps]
    valid = batch.get("valid")
    if valid is None:
        return forecast
    return torch.where(valid[:, steps].unsqueeze(-1), forecast, repeat_last(batch))


@dataclass(frozen=True)
class Ridge:
    """Linear map of the last-value-subtracted window, shared by all channels.

    `weights` is float64 `[L, H]`. There is no intercept: it would be a drift, the same for every
    channel.
    """

    weights: Tensor
    penalty: float

    def __call__(self, batch: dict[str, Tensor]) -> Tensor:
        """Forecast `[B, H, C]`."""
        inputs, last, shape = _ridge_inputs(batch)
        forecast = (inputs @ self.weights).unflatten(0, shape).transpose(1, 2)
        return (forecast + last).to(batch["past"].dtype)


def fit_ridge(train: WindowSet, val: WindowSet) -> Ridge:
    """Fit on training windows; the penalty with the lowest validation error is kept.

    Only sums of products over windows are kept, so memory does not grow with their number.
    """
    gram, cross, _ = _moments(train)
    val_gram, val_cross, val_square = _moments(val)
    values, vectors = torch.linalg.eigh(gram)
    projected = vectors.T @ cross
    best: tuple[float, Tensor, float] | None = None
    for penalty in _RIDGE_GRID:
        weights = vectors @ (projected / (values.clamp(min=0) + penalty).unsqueeze(1))
        error = float(
            (weights * (val_gram @ weights)).sum() - 2 * (weights * val_cross).sum() + val_square
        )
        if best is None or error < best[0]:
            best = (error, weights, float(penalty))
    if best is None:
        raise ValueError("fit_ridge: the grid of penalties is empty")
    return Ridge(best[1], best[2])


def _ridge_inputs(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, tuple[int, int]]:
    past = batch["past"].double()
    last = repeat_last({**batch, "past": past})[:, :1]
    centred = past - last
    if "valid" in batch:
        centred = torch.where(batch["valid"].unsqueeze(-1), centred, 0.0)
    inputs = centred.transpose(1, 2).flatten(0, 1)
    return inputs, last, (past.shape[0], past.shape[2])


def _moments(windows: WindowSet) -> tuple[Tensor, Tensor, float]:
    width = windows.lookback
    gram = torch.zeros(width, width, dtype=torch.float64)
    cross = torch.zeros(width, windows.horizon, dtype=torch.float64)
    square = 0.0
    for _, batch in batches(windows):
        inputs, last, _ = _ridge_inputs(batch)
        target = (batch["future"].double() - last).transpose(1, 2).flatten(0, 1)
        if "future_valid" in batch:
            whole = batch["future_valid"].all(dim=1).flatten()
            inputs, target = inputs[whole], target[whole]
        gram += inputs.T @ inputs
        cross += inputs.T @ target
        square += float(target.square().sum())
    return gram, cross, square

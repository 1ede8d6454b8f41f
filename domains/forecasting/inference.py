"""Forecasts of a trained model for many windows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from domains.forecasting.baselines import batches
from domains.forecasting.conformal import widen
from domains.forecasting.data.windows import WindowSet
from domains.forecasting.inputs import forecaster_inputs


def forecast_batches(
    model: nn.Module, windows: WindowSet, *, batch_size: int, device: torch.device
) -> Iterator[tuple[np.ndarray, dict[str, Tensor], np.ndarray]]:
    """Yield indices, batch and standardised forecast `[B, H, C, Q]` of every window, in order."""
    model.eval()
    with torch.inference_mode():
        for indices, batch in batches(windows, batch_size):
            inputs = {k: v.to(device) for k, v in forecaster_inputs(batch).items()}
            yield indices, batch, model(**inputs).float().cpu().numpy()


def calibrated(forecast: np.ndarray, preprocessing: Mapping[str, Any]) -> np.ndarray:
    """Widen quantile intervals by the run's conformal offsets, where it has any."""
    quantiles: Sequence[float] = preprocessing["quantiles"]
    offsets = preprocessing.get("conformal_offsets")
    return widen(forecast, quantiles, offsets) if offsets else forecast


def observed_targets(batch: dict[str, Tensor]) -> np.ndarray:
    """Return which targets count, bool `[B, H, C]`."""
    valid = batch.get("future_valid")
    return np.ones(batch["future"].shape, dtype=bool) if valid is None else valid.numpy()

"""Which parts of a batch a model takes."""

from __future__ import annotations

from torch import Tensor

FORECASTER_INPUTS = (
    "past",
    "past_time",
    "future_time",
    "past_covariates",
    "future_covariates",
    "valid",
)


def forecaster_inputs(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the entries of `batch` that are keyword arguments of a forecaster's `forward`."""
    return {name: batch[name] for name in FORECASTER_INPUTS if name in batch}

"""Example inputs of a model, for export, dry runs and benchmarks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def example_inputs(sizes: Mapping[str, Any], batch_size: int) -> dict[str, Tensor]:
    """Return random keyword inputs of `forward` of a model built with the arguments `sizes`."""
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(batch_size, *shape, generator=random)

    def calendar(*shape: int) -> Tensor:
        return torch.rand(batch_size, *shape, generator=random) - 0.5

    if "classes" in sizes:
        valid = torch.ones(batch_size, sizes["max_length"], dtype=torch.bool)
        return {"x": normal(sizes["max_length"], sizes["channels"]), "valid": valid}
    lookback, horizon = sizes["lookback"], sizes["horizon"]
    inputs = {
        "past": normal(lookback, sizes["channels"]),
        "past_time": calendar(lookback, sizes["time_features"]),
        "future_time": calendar(horizon, sizes["time_features"]),
    }
    if sizes.get("past_covariates"):
        inputs["past_covariates"] = normal(lookback, sizes["past_covariates"])
    if sizes.get("future_covariates"):
        inputs["future_covariates"] = normal(horizon, sizes["future_covariates"])
    return inputs

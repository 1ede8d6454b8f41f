"""Values of the `data:` section that cannot work are refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from domains.forecasting.data.config import DataConfig
from shared_runtime.errors import UsageError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lookback": 0}, "data.lookback: expected at least 1, got 0"),
        ({"horizon": -3}, "data.horizon: expected at least 1, got -3"),
        ({"season": -1}, "data.season: expected at least 0, got -1"),
        ({"quantiles": (0.9, 0.1)}, r"data.quantiles: expected ascending .* got \[0.9, 0.1\]"),
        ({"quantiles": (0.5, 1.0)}, r"between 0 and 1, got \[0.5, 1.0\]"),
        ({"quantiles": (0.5, 0.5)}, "expected ascending levels"),
        ({"train_fraction": 0.9}, "a sum below 1 to leave a validation part, got 0.9 and 0.2"),
        ({"targets": ("a",), "past_covariates": ("a",)}, "column 'a' has two roles"),
    ],
)
def test_values_that_cannot_work(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        DataConfig(path=Path("x.csv"), **options)

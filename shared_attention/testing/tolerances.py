"""The one table of tolerances, and the one comparison that uses it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Kind = Literal["values", "gradients"]

TOLERANCES: dict[torch.dtype, dict[Kind, float]] = {
    torch.float64: {"values": 1e-10, "gradients": 1e-9},
    torch.float32: {"values": 2e-5, "gradients": 2e-4},
}
"""Absolute and relative, against float64. Half precision has no entry: it is held to the error
of plain PyTorch in the same type."""

HALF_PRECISION_RATIO = 2.0
"""A half-precision error may be this many times that of plain softmax attention."""


def assert_close(actual: Tensor, expected: Tensor, what: str, kind: Kind = "values") -> None:
    """Compare in float64 with the tolerance of `actual`'s type; NaN is never equal.

    Raises:
        AssertionError: They differ; the message starts with `what`.
    """
    tolerance = TOLERANCES[actual.dtype][kind]
    torch.testing.assert_close(
        actual.detach().double(),
        expected.detach().double(),
        rtol=tolerance,
        atol=tolerance,
        msg=lambda text: f"{what}: {' '.join(text.split())}",
    )

"""The table of order types that TLOB and MLPLOB hold."""

from __future__ import annotations

import torch
from torch import Tensor, nn

ORDER_TYPES = 3
"""New limit order, deletion, execution."""


class OrderTypes(nn.Module):
    """Replace a column of order types 0, 1 or 2 by a learned number for each.

    The column has to reach the model unscaled. Published code looks it up without training the
    table, and holds the table where there is no such column too. Without a `column` this one is
    held, so that parameters are counted alike, and frozen; with one it is trained.

    Args:
        column: where the types are among the features; None where they are not.
    """

    def __init__(self, column: int | None) -> None:
        super().__init__()
        self.column = column
        self.value = nn.Parameter(torch.randn(ORDER_TYPES), requires_grad=column is not None)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` `[B, T, F]` with its column of types replaced."""
        if self.column is None:
            return x
        before, types, after = x.tensor_split((self.column, self.column + 1), dim=2)
        return torch.cat([before, self.value[types.long()], after], dim=2)

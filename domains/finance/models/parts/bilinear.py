"""Bilinear normalisation: a window scaled along time and along features at once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from domains.finance.models.parts.constraints import between

_FLAT = 1e-4
"""Standard deviation below which a series counts as constant."""


class BilinearNormalisation(nn.Module):
    """Mix two z-scores of each window, one over its rows and one over its columns.

    out[t, f] = a · (time_scale[t] · r[t, f] + time_shift[t])
    + b · (feature_scale[f] · c[t, f] + feature_shift[f]),
    where r scales each time step over its features and c each feature over its time steps, with
    the standard deviation of n - 1 degrees of freedom. The learned a and b are used as max(., 0).

    A constant step or feature, or a window of a single one, is only centred. Published code does
    this for features alone, so that a constant time step gives NaN. It also replaces a or b by a
    new parameter of 0.01 once negative, which its optimiser never sees: that part of the layer is
    frozen at 0.01 from then on. Here it counts as 0 and can grow again.

    Args:
        lookback: time steps T.
        features: features F.

    Source: Tran et al., Data Normalization for Bilinear Structures in High-Frequency Financial
    Time-series, ICPR 2020 (arXiv 2003.00598).
    """

    def __init__(self, *, lookback: int, features: int) -> None:
        super().__init__()
        self.time_scale = nn.Parameter(torch.empty(lookback, 1))
        self.time_shift = nn.Parameter(torch.zeros(lookback, 1))
        self.feature_scale = nn.Parameter(torch.empty(features, 1))
        self.feature_shift = nn.Parameter(torch.zeros(features, 1))
        self.time_share = nn.Parameter(torch.full((1,), 0.5))
        self.feature_share = nn.Parameter(torch.full((1,), 0.5))
        nn.init.xavier_normal_(self.time_scale)
        nn.init.xavier_normal_(self.feature_scale)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x` `[B, T, F]`."""
        time_share = between(self.time_share, 0.0)
        feature_share = between(self.feature_share, 0.0)
        row_mean, row_factor = _statistics(x, 2)
        column_mean, column_factor = _statistics(x, 1)
        row_factor = row_factor * (time_share * self.time_scale)
        column_factor = column_factor * (feature_share * self.feature_scale).squeeze(1)
        shift = time_share * self.time_shift + feature_share * self.feature_shift.squeeze(1)
        rows = torch.addcmul(shift, x - row_mean, row_factor)
        return torch.addcmul(rows, x - column_mean, column_factor)


def _statistics(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return mean and one over the standard deviation along `dim`, 1 where it is flat."""
    variance, mean = torch.var_mean(x, dim, correction=min(1, x.shape[dim] - 1), keepdim=True)
    deviation = variance.clamp_min(_FLAT**2).sqrt()
    return mean, torch.where(variance < _FLAT**2, 1.0, 1 / deviation)

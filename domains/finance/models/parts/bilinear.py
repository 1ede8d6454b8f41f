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
        rows, row_factor = _centred(x, 2)
        columns, column_factor = _centred(x, 1)
        row_factor = row_factor * (time_share * self.time_scale)
        column_factor = column_factor * (feature_share * self.feature_scale).squeeze(1)
        shift = time_share * self.time_shift + feature_share * self.feature_shift.squeeze(1)
        return torch.addcmul(torch.addcmul(shift, rows, row_factor), columns, column_factor)


def _centred(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return `x` less its mean along `dim`, and one over its deviation there, 1 where flat."""
    centred = x - x.mean(dim, keepdim=True)
    variance = centred.square().sum(dim, keepdim=True) / max(1, x.shape[dim] - 1)
    flat = variance < _FLAT**2
    return centred, torch.where(flat, 1.0, variance.masked_fill(flat, 1.0).rsqrt())

"""What the last row of a window says by itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from shared_attention.dropout import Dropout
from shared_attention.linear import Linear

_WIDTH = 64
_LARGEST = 2.88
"""Normal score of the rank 0.998."""


class PiecewiseLinearEncoding(nn.Module):
    """Spread each feature over bins: 1 below it, 0 above it, its place within the bin it lies in.

    Bins hold equal shares of a standard normal, so of features in normal scores of their ranks.
    A linear map of the encoding is a piecewise linear function of every feature, which follows
    thresholds that a linear map of the feature itself cannot.

    Args:
        bins: of each feature.

    Source: Gorishniy et al., On Embeddings for Numerical Features in Tabular Deep Learning,
    NeurIPS 2022, section 3.2.
    """

    low: Tensor
    width: Tensor

    def __init__(self, bins: int) -> None:
        super().__init__()
        inner = torch.special.ndtri(torch.arange(1, bins, dtype=torch.float64) / bins)
        edges = torch.cat([inner.new_tensor([-_LARGEST]), inner, inner.new_tensor([_LARGEST])])
        self.register_buffer("low", edges[:-1].float(), persistent=False)
        self.register_buffer("width", edges.diff().float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[..., F]` to `[..., F * bins]`, values from -0.5 to 0.5."""
        place = (x.unsqueeze(-1) - self.low) / self.width
        return place.clamp(0, 1).flatten(-2) - 0.5


class LatestRow(nn.Module):
    """Class scores of one row: a sum of functions of each feature, and a small network.

    Args:
        features: columns F.
        classes: number of classes.
        bins: of the encoding of each feature.
        dropout: probability, in the network.
    """

    def __init__(self, features: int, classes: int, bins: int, dropout: float) -> None:
        super().__init__()
        self.encode = PiecewiseLinearEncoding(bins)
        self.sum = Linear(features * bins, classes, bias=False)
        nn.init.zeros_(self.sum.weight)
        self.network = nn.Sequential(
            Linear(features * bins, _WIDTH),
            nn.GELU(),
            Dropout(dropout),
            Linear(_WIDTH, _WIDTH),
            nn.GELU(),
            Dropout(dropout),
            Linear(_WIDTH, classes),
        )

    def forward(self, row: Tensor) -> Tensor:
        """Return scores `[B, classes]` of rows `[B, F]`."""
        encoded = self.encode(row)
        return self.sum(encoded) + self.network(encoded)

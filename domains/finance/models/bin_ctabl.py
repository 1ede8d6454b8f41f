"""BiN-CTABL: bilinear layers with attention over time (Tran et al. 2019 and 2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from domains.finance.models.parts.bilinear import BilinearNormalisation
from domains.finance.models.parts.constraints import between, within_norm
from domains.finance.models.parts.windows import check_sizes, check_window
from shared_attention.dropout import Dropout


class BiNCTABL(nn.Module):
    """Bilinear normalisation, two bilinear layers, and one with attention over time.

    The Frobenius norm of every weight is kept at 10 or less, and the share of attention within
    [0, 1]. Published code writes to its weights whenever the model runs, in evaluation too, and
    replaces the share by a new parameter that the optimiser does not know. Here the model uses
    the nearest weights that satisfy both, and gradients leave out what would lead further
    outside, which is projected gradient descent. It also ends in a softmax, on which its loss
    takes another, and fails on a batch of one; these are scores, of any batch.

    Args:
        lookback: time steps T; 10 in the paper.
        features: columns F of the window; 40 in the paper.
        classes: number of classes.
        widths: rows of the two bilinear layers.
        dropout: probability, after each bilinear layer.
        max_norm: largest norm of a weight.

    Raises:
        ValueError: Sizes are below 1.

    Source: Temporal Attention-Augmented Bilinear Network for Financial Time-Series Data Analysis
    (arXiv 1712.00975); Data Normalization for Bilinear Structures (arXiv 2003.00598).
    """

    def __init__(
        self,
        *,
        lookback: int,
        features: int,
        classes: int = 3,
        widths: tuple[int, int] = (60, 120),
        dropout: float = 0.1,
        max_norm: float = 10.0,
    ) -> None:
        super().__init__()
        check_sizes("BiNCTABL", lookback=lookback, features=features, classes=classes)
        self.lookback, self.features = lookback, features
        shorter = max(1, lookback // 2)
        self.normalise = BilinearNormalisation(lookback=lookback, features=features)
        self.first = BilinearLayer(features, widths[0], lookback, lookback, max_norm)
        self.second = BilinearLayer(widths[0], widths[1], lookback, shorter, max_norm)
        self.attention = AttentionBilinearLayer(widths[1], classes, shorter, max_norm)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return class scores `[B, classes]` of windows `x` `[B, T, F]`.

        Raises:
            ValueError: The windows have another shape.
        """
        check_window("BiNCTABL", x, self.lookback, self.features)
        x = self.normalise(x).transpose(1, 2)
        x = self.dropout(self.first(x))
        x = self.dropout(self.second(x))
        return self.attention(x)


class BilinearLayer(nn.Module):
    """ReLU(W1 X W2 + B): one weight mixes features, the other time steps.

    Args:
        rows: features in.
        out_rows: features out.
        steps: time steps in.
        out_steps: time steps out.
        max_norm: largest norm of a weight.
    """

    def __init__(
        self, rows: int, out_rows: int, steps: int, out_steps: int, max_norm: float
    ) -> None:
        super().__init__()
        self.over_features = _weight(out_rows, rows)
        self.over_time = _weight(steps, out_steps)
        self.shift = nn.Parameter(torch.zeros(out_rows, out_steps))
        self.max_norm = max_norm

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, rows, steps]` to `[B, out_rows, out_steps]`."""
        over_features = within_norm(self.over_features, self.max_norm)
        over_time = within_norm(self.over_time, self.max_norm)
        return torch.relu(over_features @ x @ over_time + self.shift)


class AttentionBilinearLayer(nn.Module):
    """Mix features, weigh time steps by attention, and mix those to one score for each row.

    With X = W1 x and A = softmax(X W) over time, W having 1 / T on its diagonal, the score is
    (λ X + (1 - λ) X ∘ A) w2 + b.

    Args:
        rows: features in.
        classes: rows out.
        steps: time steps T.
        max_norm: largest norm of a weight.
    """

    def __init__(self, rows: int, classes: int, steps: int, max_norm: float) -> None:
        super().__init__()
        self.over_features = _weight(classes, rows)
        self.between_steps = nn.Parameter(torch.full((steps, steps), 1 / steps))
        self.over_time = _weight(steps, 1)
        self.shift = nn.Parameter(torch.zeros(classes, 1))
        self.plain_share = nn.Parameter(torch.full((1,), 0.5))
        self.register_buffer("diagonal", torch.eye(steps, dtype=torch.bool), persistent=False)
        self.diagonal: Tensor
        self.max_norm = max_norm

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, rows, steps]` to `[B, classes]`."""
        x = within_norm(self.over_features, self.max_norm) @ x
        between_steps = within_norm(self.between_steps, self.max_norm)
        between_steps = between_steps.masked_fill(self.diagonal, 1 / len(self.diagonal))
        share = between(self.plain_share, 0.0, 1.0)
        x = x * torch.lerp((x @ between_steps).softmax(dim=2), torch.ones_like(x), share)
        over_time = within_norm(self.over_time, self.max_norm)
        return (x @ over_time + self.shift).squeeze(2)


def _weight(rows: int, columns: int) -> nn.Parameter:
    weight = torch.empty(rows, columns)
    nn.init.kaiming_uniform_(weight, nonlinearity="relu")
    return nn.Parameter(weight)

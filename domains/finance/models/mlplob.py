"""MLPLOB: networks along features and time in turn (Berti and Kasneci 2025, arXiv 2502.15757)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from domains.finance.models.parts.bilinear import BilinearNormalisation
from domains.finance.models.parts.latest import LatestRow
from domains.finance.models.parts.mixing import MixingNetwork, Pyramid, quarter
from domains.finance.models.parts.order_types import OrderTypes
from domains.finance.models.parts.windows import check_sizes, check_window
from shared_attention.linear import Linear


class MLPLOB(nn.Module):
    """TLOB without attention: each block is a `MixingNetwork` along one axis of the window.

    Bilinear normalisation, a linear map to `d_model`, GELU, then pairs of networks, over features
    and over time. The last pair quarters both sides before the scores. Published code fixes d to
    the number of features and has no dropout.

    Args:
        lookback: time steps T.
        features: columns F of the window.
        classes: number of classes.
        d_model: width d; None is `features`.
        layers: pairs of networks.
        dropout: probability, in the networks and before the scores.
        order_type_column: column that holds order types 0, 1 and 2, unscaled, which a trained
            table replaces; None where there is none.
        latest_bins: with more than 0, the scores of `LatestRow` are added, whose encoding has as
            many bins: a path from the last row past the rest of the model.

    Raises:
        ValueError: Sizes are below 1.
    """

    def __init__(
        self,
        *,
        lookback: int,
        features: int,
        classes: int = 3,
        d_model: int | None = None,
        layers: int = 3,
        dropout: float = 0.0,
        order_type_column: int | None = None,
        latest_bins: int = 0,
    ) -> None:
        super().__init__()
        check_sizes("MLPLOB", lookback=lookback, features=features, classes=classes)
        width = features if d_model is None else d_model
        self.lookback, self.features = lookback, features
        self.order_types = OrderTypes(order_type_column)
        self.normalise = BilinearNormalisation(lookback=lookback, features=features)
        self.embed = Linear(features, width)
        self.layers = nn.ModuleList()
        for pair in range(layers):
            last = pair == layers - 1
            self.layers.extend(
                MixingNetwork(side, 2 * side, quarter(side), dropout)
                if last
                else MixingNetwork(side, 4 * side, side, dropout)
                for side in (width, lookback)
            )
        self.head = Pyramid(quarter(width) * quarter(lookback), classes, dropout)
        self.latest = LatestRow(features, classes, latest_bins, dropout) if latest_bins else None

    def forward(self, x: Tensor) -> Tensor:
        """Return class scores `[B, classes]` of windows `x` `[B, T, F]`.

        Raises:
            ValueError: The windows have another shape.
        """
        check_window("MLPLOB", x, self.lookback, self.features)
        hidden = functional.gelu(self.embed(self.normalise(self.order_types(x))))
        for layer in self.layers:
            hidden = layer(hidden).transpose(1, 2).contiguous()
        scores = self.head(hidden.flatten(1))
        return scores if self.latest is None else scores + self.latest(x[:, -1])

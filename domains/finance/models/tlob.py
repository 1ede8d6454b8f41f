"""TLOB: dual attention over time and over features (Berti and Kasneci 2025, arXiv 2502.15757)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from domains.finance.models.parts.axis_attention import AxisAttention
from domains.finance.models.parts.bilinear import BilinearNormalisation
from domains.finance.models.parts.mixing import Pyramid, quarter
from domains.finance.models.parts.order_types import OrderTypes
from domains.finance.models.parts.windows import check_sizes, check_window
from shared_attention.choice import AttentionChoice, choose_attention, is_ordered
from shared_attention.layers import SinusoidalPositions
from shared_attention.linear import Linear
from shared_attention.registry import catalogue


class TLOB(nn.Module):
    """Attend among the T time steps of a window, then among its features, and again.

    Bilinear normalisation, a linear map to `d_model`, positions, then pairs of `AxisAttention`:
    the first reads T tokens of width d, the second d tokens of width T. The last pair quarters
    both sides before the scores. Published code fixes d to the number of features and has no
    dropout.

    Args:
        lookback: time steps T.
        features: columns F of the window.
        classes: number of classes.
        attention: mechanism over time; None is `softmax`.
        attention_options: its options.
        feature_attention: mechanism over features, which have no order; None is that over time
            where it sees all tokens alike, `softmax` else.
        feature_attention_options: its options; None is those of the mechanism over time where it
            is the same.
        d_model: width d; None is `features`.
        layers: pairs of layers.
        num_heads: heads of every layer; divides `d_model` and `lookback`.
        dropout: probability, after attention, in the networks and before the scores.
        order_type_column: column that holds order types 0, 1 and 2, unscaled, which a trained
            table replaces; None where there is none.

    Raises:
        ValueError: Sizes are below 1, or `num_heads` does not divide them.
        UnsupportedError: A mechanism is unknown, or one over features is always causal.
    """

    def __init__(
        self,
        *,
        lookback: int,
        features: int,
        classes: int = 3,
        attention: str | None = None,
        attention_options: Mapping[str, Any] | None = None,
        feature_attention: str | None = None,
        feature_attention_options: Mapping[str, Any] | None = None,
        d_model: int | None = None,
        layers: int = 4,
        num_heads: int = 1,
        dropout: float = 0.0,
        order_type_column: int | None = None,
    ) -> None:
        super().__init__()
        check_sizes("TLOB", lookback=lookback, features=features, classes=classes)
        width = features if d_model is None else d_model
        if width % num_heads or lookback % num_heads:
            raise ValueError(
                f"TLOB: num_heads {num_heads} does not divide both d_model {width} "
                f"and lookback {lookback}"
            )
        over_time = choose_attention("TLOB", attention, attention_options, default="softmax")
        over_features = _feature_choice(over_time, feature_attention, feature_attention_options)
        self.lookback, self.features = lookback, features
        self.order_types = OrderTypes(order_type_column)
        self.normalise = BilinearNormalisation(lookback=lookback, features=features)
        self.embed = Linear(features, width)
        self.positions = SinusoidalPositions(width)
        self.layers = nn.ModuleList()
        for pair in range(layers):
            last = pair == layers - 1
            sides = [(over_time, width), (over_features, lookback)]
            self.layers.extend(
                AxisAttention(choice, side, num_heads, quarter(side) if last else side, dropout)
                for choice, side in sides
            )
        self.head = Pyramid(quarter(width) * quarter(lookback), classes, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return class scores `[B, classes]` of windows `x` `[B, T, F]`.

        Raises:
            ValueError: The windows have another shape.
        """
        check_window("TLOB", x, self.lookback, self.features)
        x = self.positions(self.embed(self.normalise(self.order_types(x))))
        for layer in self.layers:
            x = layer(x).transpose(1, 2).contiguous()
        return self.head(x.transpose(1, 2).flatten(1))


def _feature_choice(
    over_time: AttentionChoice, name: str | None, options: Mapping[str, Any] | None
) -> AttentionChoice:
    """Return the mechanism over features."""
    if name is None:
        name = "softmax" if is_ordered(catalogue()[over_time.name]) else over_time.name
    if options is None:
        options = over_time.options if name == over_time.name else {}
    choice = choose_attention("TLOB", name, options, default="softmax")
    choice.require_unordered()
    return choice

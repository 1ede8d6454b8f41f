"""Classifiers of multivariate series; they differ in their attention mechanism only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from domains.forecasting.models.parts.normalisation import keep_valid, valid_mean
from shared_attention.choice import choose_attention
from shared_attention.dropout import Dropout
from shared_attention.layers import EncoderLayer, SinusoidalPositions
from shared_attention.linear import Linear


class TransformerClassifier(nn.Module):
    """Embed each step, encode, average over the valid steps, classify.

    Padding never changes the scores, whatever its amount. The published classifier of Flowformer
    flattens all steps into one long vector instead, which ties it to one length.

    Args:
        channels: series C.
        classes: number of classes.
        max_length: longest series L.
        attention: mechanism; None is the paper's.
        attention_options: its options.
        d_model: width.
        num_heads: heads.
        d_ff: width of the feed-forward layers.
        layers: encoder layers.
        dropout: probability.
    """

    paper_attention: ClassVar[str] = "softmax"

    def __init__(
        self,
        *,
        channels: int,
        classes: int,
        max_length: int,
        attention: str | None = None,
        attention_options: Mapping[str, Any] | None = None,
        d_model: int = 512,
        num_heads: int = 8,
        d_ff: int = 2048,
        layers: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.attention = choose_attention(
            type(self).__name__, attention, attention_options, default=self.paper_attention
        )
        self.max_length = max_length
        self.embed = Linear(channels, d_model)
        self.positions = SinusoidalPositions(d_model)
        self.dropout = Dropout(dropout)
        self.layers = nn.ModuleList(
            EncoderLayer(self.attention.build(d_model, num_heads), d_model, d_ff, dropout=dropout)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(d_model)
        self.project = nn.Linear(d_model, classes)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """Return class scores `[B, classes]`.

        Args:
            x: `[B, L, C]`, padded at the end.
            valid: bool `[B, L]`, False where padded; None when nothing is.

        Raises:
            ValueError: The series are longer than `max_length`.
        """
        if x.shape[1] > self.max_length:
            raise ValueError(
                f"{type(self).__name__}.forward: got series of {x.shape[1]} steps, "
                f"expected at most max_length = {self.max_length}"
            )
        mask = self.attention.padding(valid)
        hidden = self.dropout(self.positions(self.embed(keep_valid(x, valid))))
        for layer in self.layers:
            hidden = layer(hidden, mask=mask)
        return self.project(valid_mean(self.norm(hidden), valid).squeeze(1))


class FlowformerClassifier(TransformerClassifier):
    """Classifier with linear-time Flow-Attention (Wu et al., ICML 2022, arXiv 2202.06258).

    Arguments as of `TransformerClassifier`; attention None is `flow`.
    """

    paper_attention = "flow"


class AarenClassifier(TransformerClassifier):
    """Classifier whose steps summarise those before them (Feng et al. 2024, arXiv 2405.13956).

    Arguments as of `TransformerClassifier`; attention None is `scan`.
    """

    paper_attention = "scan"

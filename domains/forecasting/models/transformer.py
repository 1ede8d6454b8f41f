"""The plain Transformer (Vaswani et al. 2017, arXiv 1706.03762) as a forecaster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from domains.forecasting.models.parts.encoder_decoder import EncoderDecoder, Size
from domains.forecasting.models.parts.start_tokens import label_steps
from shared_attention.choice import choose_attention


class TransformerForecaster(EncoderDecoder):
    """Encoder-decoder Transformer with sinusoidal positions and a generative decoder.

    The reference that Informer, Autoformer and Flowformer are compared with.

    Args:
        lookback: length L of the window.
        horizon: steps H to forecast.
        channels: series C.
        time_features: calendar covariates F.
        outputs: quantiles, or 1 for a point forecast.
        attention: mechanism of every attention; None is `softmax`.
        attention_options: its options.
        d_model: width.
        num_heads: heads.
        d_ff: width of the feed-forward layers.
        encoder_layers: layers of the encoder.
        decoder_layers: layers of the decoder.
        dropout: probability.
        label: look-back steps at the start of the decoder; None is 48, or the window if shorter.

    Raises:
        UnsupportedError: `attention` has no causal form, or cannot be used across two series.
    """

    paper_attention: ClassVar[str] = "softmax"

    def __init__(
        self,
        *,
        lookback: int,
        horizon: int,
        channels: int,
        time_features: int,
        outputs: int = 1,
        attention: str | None = None,
        attention_options: Mapping[str, Any] | None = None,
        d_model: int = 512,
        num_heads: int = 8,
        d_ff: int = 2048,
        encoder_layers: int = 2,
        decoder_layers: int = 1,
        dropout: float = 0.05,
        label: int | None = None,
    ) -> None:
        choice = choose_attention(
            type(self).__name__,
            attention,
            attention_options,
            default=self.paper_attention,
            needs=("causal", "cross"),
        )
        super().__init__(
            choice,
            choice,
            Size(d_model, num_heads, d_ff, encoder_layers, decoder_layers, dropout),
            channels=channels,
            time_features=time_features,
            outputs=outputs,
            horizon=horizon,
            label=label_steps(label, lookback, default=min(48, lookback)),
            distil=False,
        )

"""Informer (Zhou et al., AAAI 2021, arXiv 2012.07436)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from domains.forecasting.models.parts.encoder_decoder import EncoderDecoder, Size
from domains.forecasting.models.parts.start_tokens import label_steps
from shared_attention.choice import choose_attention


class Informer(EncoderDecoder):
    """ProbSparse encoder with distilling, and a decoder that writes the horizon in one pass.

    Args:
        lookback: length L of the window.
        horizon: steps H to forecast.
        channels: series C.
        time_features: calendar covariates F.
        outputs: quantiles, or 1 for a point forecast.
        attention: mechanism of both self-attentions; None is the paper's `prob_sparse`. The
            decoder's attention to the encoder is `softmax`, as in the paper.
        attention_options: its options; `factor` 5 as in the paper.
        d_model: width.
        num_heads: heads.
        d_ff: width of the feed-forward layers.
        encoder_layers: layers of the encoder, with distilling between them.
        decoder_layers: layers of the decoder.
        dropout: probability.
        label: look-back steps at the start of the decoder; None is 48, or the window if shorter.

    In evaluation the same input gives the same forecast: published code draws the sampled keys
    anew at every call, in evaluation too, and its masked form reads later steps.

    Raises:
        UnsupportedError: `attention` has no causal form.
    """

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
        super().__init__(
            choose_attention(
                "Informer", attention, attention_options, default="prob_sparse", needs=("causal",)
            ),
            choose_attention("Informer", None, None, default="softmax"),
            Size(d_model, num_heads, d_ff, encoder_layers, decoder_layers, dropout),
            channels=channels,
            time_features=time_features,
            outputs=outputs,
            horizon=horizon,
            label=label_steps(label, lookback, default=min(48, lookback)),
            distil=True,
        )

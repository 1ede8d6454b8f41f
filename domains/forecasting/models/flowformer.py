"""Flowformer as a forecaster (Wu et al., ICML 2022, arXiv 2202.06258)."""

from __future__ import annotations

from domains.forecasting.models.transformer import TransformerForecaster


class Flowformer(TransformerForecaster):
    """Transformer whose every attention is linear-time Flow-Attention.

    The paper classifies series with it (`FlowformerClassifier`); here the same layers forecast,
    with the generative decoder of Informer. Arguments as of `TransformerForecaster`; attention
    None is `flow`.
    """

    paper_attention = "flow"

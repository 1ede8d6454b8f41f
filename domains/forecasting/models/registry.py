"""The models of the domain, as `heed forecasting models` lists them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared_runtime.domain import ModelSpec

_PACKAGE = "domains.forecasting.models"
_LONG_TERM = {
    "epochs": 10,
    "batch_size": 32,
    "learning_rate": 1e-4,
    "optimizer": "adam",
    "schedule": "halve",
    "patience": 3,
}
_UEA = {
    "epochs": 100,
    "batch_size": 16,
    "learning_rate": 1e-3,
    "optimizer": "radam",
    "schedule": "constant",
    "patience": 0,
    "select": "last",
}


def _forecaster(
    name: str,
    module: str,
    *,
    attention: str,
    paper: str,
    summary: str,
    training: Mapping[str, Any],
) -> ModelSpec:
    target = f"{_PACKAGE}.{module}:{name}"
    return ModelSpec(name, target, "forecast", paper, summary, attention, training)


def _classifier(name: str, *, attention: str, paper: str, summary: str) -> ModelSpec:
    target = f"{_PACKAGE}.classifiers:{name}"
    return ModelSpec(name, target, "classify", paper, summary, attention, _UEA)


_FLOWFORMER = "Wu et al., Flowformer, ICML 2022 (arXiv 2202.06258)"
_AAREN = "Feng et al., Attention as an RNN, 2024 (arXiv 2405.13956)"
_TRANSFORMER = "Vaswani et al., Attention Is All You Need, NeurIPS 2017 (arXiv 1706.03762)"

_SPECS = (
    _forecaster(
        "InvertedTransformer",
        "inverted",
        attention="softmax",
        paper="Liu et al., iTransformer, ICLR 2024 (arXiv 2310.06625)",
        summary="variables are tokens; the strong default for related series",
        training={**_LONG_TERM, "batch_size": 64, "learning_rate": 5e-3, "loss": "mae"},
    ),
    _forecaster(
        "PatchedTransformer",
        "patched",
        attention="softmax",
        paper="Nie et al., PatchTST, ICLR 2023 (arXiv 2211.14730)",
        summary="patches are tokens, one channel at a time; strong with long look-backs",
        training={**_LONG_TERM, "batch_size": 64, "learning_rate": 1e-3},
    ),
    _forecaster(
        "Informer",
        "informer",
        attention="prob_sparse",
        paper="Zhou et al., Informer, AAAI 2021 (arXiv 2012.07436)",
        summary="sparse queries, a distilling encoder and a decoder that writes all steps at once",
        training={**_LONG_TERM, "epochs": 6},
    ),
    _forecaster(
        "Autoformer",
        "autoformer",
        attention="auto_correlation",
        paper="Wu et al., Autoformer, NeurIPS 2021 (arXiv 2106.13008)",
        summary="series decomposition inside every layer, attention to lags instead of steps",
        training=_LONG_TERM,
    ),
    _forecaster(
        "Flowformer",
        "flowformer",
        attention="flow",
        paper=_FLOWFORMER,
        summary="Transformer with linear-time attention that conserves flow",
        training=_LONG_TERM,
    ),
    _forecaster(
        "MHAC",
        "mhac",
        attention="softmax",
        paper="A Daily Tourism Demand Prediction Framework, 2021 (arXiv 2112.00328)",
        summary="a CNN for each variable, attention across variables; takes covariates",
        training={**_LONG_TERM, "learning_rate": 1e-3},
    ),
    _forecaster(
        "AarenForecaster",
        "aaren",
        attention="scan",
        paper=_AAREN,
        summary="takes in one observation at a time, in constant time and memory",
        training={**_LONG_TERM, "learning_rate": 1e-3},
    ),
    _forecaster(
        "TransformerForecaster",
        "transformer",
        attention="softmax",
        paper=_TRANSFORMER,
        summary="plain encoder-decoder Transformer, the reference of the others",
        training=_LONG_TERM,
    ),
    _classifier(
        "FlowformerClassifier",
        attention="flow",
        paper=_FLOWFORMER,
        summary="classifies series with linear-time attention",
    ),
    _classifier(
        "AarenClassifier",
        attention="scan",
        paper=_AAREN,
        summary="classifies series with attention that reads them as a stream",
    ),
    _classifier(
        "TransformerClassifier",
        attention="softmax",
        paper=_TRANSFORMER,
        summary="plain Transformer encoder, the reference of the other classifiers",
    ),
)

MODELS: dict[str, ModelSpec] = {spec.name: spec for spec in _SPECS}

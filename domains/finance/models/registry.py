"""The models of the domain, as `heed finance models` lists them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared_runtime.domain import ModelSpec

_PACKAGE = "domains.finance.models"
_TLOB = {
    "epochs": 10,
    "batch_size": 128,
    "learning_rate": 1e-4,
    "optimizer": "adam",
    "schedule": "constant",
    "patience": 1,
    "average": 0.999,
}
"""Berti and Kasneci 2025, who also halve the rate when validation stalls."""


def _model(
    name: str,
    module: str,
    *,
    attention: str | None,
    paper: str,
    summary: str,
    training: Mapping[str, Any],
) -> ModelSpec:
    target = f"{_PACKAGE}.{module}:{name}"
    return ModelSpec(name, target, "trend", paper, summary, attention, training)


_BERTI = "Berti and Kasneci, TLOB, 2025 (arXiv 2502.15757)"

_SPECS = (
    _model(
        "TLOB",
        "tlob",
        attention="softmax",
        paper=_BERTI,
        summary="attends among time steps, then among features, in turn",
        training=_TLOB,
    ),
    _model(
        "MLPLOB",
        "mlplob",
        attention=None,
        paper=_BERTI,
        summary="networks along features and along time in turn, without attention",
        training={**_TLOB, "learning_rate": 3e-4},
    ),
    _model(
        "DeepLOB",
        "deeplob",
        attention=None,
        paper="Zhang et al., DeepLOB, IEEE Trans. Signal Processing 2019 (arXiv 1808.03668)",
        summary="convolutions over price levels and time, inception and an LSTM",
        training={**_TLOB, "epochs": 50, "batch_size": 64, "patience": 10},
    ),
    _model(
        "BiNCTABL",
        "bin_ctabl",
        attention=None,
        paper="Tran et al., Bilinear Normalisation, ICPR 2020 (arXiv 2003.00598)",
        summary="bilinear layers with attention over time; 11 thousand parameters",
        training={**_TLOB, "learning_rate": 1e-3},
    ),
    _model(
        "StreamingLOB",
        "streaming",
        attention="scan",
        paper="Feng et al., Attention as an RNN, 2024 (arXiv 2405.13956)",
        summary="takes in one book update at a time, in constant time and memory",
        training={**_TLOB, "learning_rate": 1e-3, "patience": 3},
    ),
)

MODELS: dict[str, ModelSpec] = {spec.name: spec for spec in _SPECS}

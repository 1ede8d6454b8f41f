"""Forecast and classify time series with attention. Importing this imports no torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from domains.forecasting.api import forecast, load_ett
    from domains.forecasting.data.config import DataConfig
    from domains.forecasting.models import (
        MHAC,
        AarenClassifier,
        AarenForecaster,
        Autoformer,
        Flowformer,
        FlowformerClassifier,
        Informer,
        InvertedTransformer,
        PatchedTransformer,
        TransformerClassifier,
        TransformerForecaster,
    )

_MODELS = (
    "MHAC",
    "AarenClassifier",
    "AarenForecaster",
    "Autoformer",
    "Flowformer",
    "FlowformerClassifier",
    "Informer",
    "InvertedTransformer",
    "PatchedTransformer",
    "TransformerClassifier",
    "TransformerForecaster",
)
_HOMES = {
    **dict.fromkeys(_MODELS, "domains.forecasting.models"),
    "DataConfig": "domains.forecasting.data.config",
    "forecast": "domains.forecasting.api",
    "load_ett": "domains.forecasting.api",
}
__all__ = [
    "MHAC",
    "AarenClassifier",
    "AarenForecaster",
    "Autoformer",
    "DataConfig",
    "Flowformer",
    "FlowformerClassifier",
    "Informer",
    "InvertedTransformer",
    "PatchedTransformer",
    "TransformerClassifier",
    "TransformerForecaster",
    "forecast",
    "load_ett",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

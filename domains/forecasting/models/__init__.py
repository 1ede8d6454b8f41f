"""Models of the forecasting domain, one module per paper. Importing this imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from domains.forecasting.models.registry import MODELS

if TYPE_CHECKING:
    from domains.forecasting.models.aaren import AarenForecaster, AarenState
    from domains.forecasting.models.autoformer import Autoformer
    from domains.forecasting.models.classifiers import (
        AarenClassifier,
        FlowformerClassifier,
        TransformerClassifier,
    )
    from domains.forecasting.models.flowformer import Flowformer
    from domains.forecasting.models.informer import Informer
    from domains.forecasting.models.inverted import InvertedTransformer
    from domains.forecasting.models.mhac import MHAC
    from domains.forecasting.models.patched import PatchedTransformer
    from domains.forecasting.models.transformer import TransformerForecaster

__all__ = [
    "MHAC",
    "MODELS",
    "AarenClassifier",
    "AarenForecaster",
    "AarenState",
    "Autoformer",
    "Flowformer",
    "FlowformerClassifier",
    "Informer",
    "InvertedTransformer",
    "PatchedTransformer",
    "TransformerClassifier",
    "TransformerForecaster",
]


def __getattr__(name: str) -> Any:
    if name == "AarenState":
        from domains.forecasting.models.aaren import AarenState

        return AarenState
    if name in MODELS:
        return MODELS[name].load()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

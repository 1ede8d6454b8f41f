"""Models of the finance domain, one module per paper. Importing this imports no torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from domains.finance.models.registry import MODELS

if TYPE_CHECKING:
    from domains.finance.models.bin_ctabl import BiNCTABL
    from domains.finance.models.deeplob import DeepLOB
    from domains.finance.models.live import LiveBook
    from domains.finance.models.mlplob import MLPLOB
    from domains.finance.models.parts.bilinear import BilinearNormalisation
    from domains.finance.models.streaming import StreamingLOB, StreamState
    from domains.finance.models.tlob import TLOB

__all__ = [
    "MLPLOB",
    "MODELS",
    "TLOB",
    "BiNCTABL",
    "BilinearNormalisation",
    "DeepLOB",
    "LiveBook",
    "StreamState",
    "StreamingLOB",
]
_HOMES = {
    "BilinearNormalisation": "parts.bilinear",
    "LiveBook": "live",
    "StreamState": "streaming",
}


def __getattr__(name: str) -> Any:
    if name in MODELS:
        return MODELS[name].load()
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

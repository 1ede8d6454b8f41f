"""Limit order book models, labels and verdicts after costs. Importing this imports no torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from domains.finance.models import (
        MLPLOB,
        TLOB,
        BilinearNormalisation,
        BiNCTABL,
        DeepLOB,
        StreamingLOB,
    )

_MODELS = ("MLPLOB", "TLOB", "BiNCTABL", "BilinearNormalisation", "DeepLOB", "StreamingLOB")
_HOMES = dict.fromkeys(_MODELS, "domains.finance.models")
__all__ = ["MLPLOB", "TLOB", "BiNCTABL", "BilinearNormalisation", "DeepLOB", "StreamingLOB"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

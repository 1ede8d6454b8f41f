"""Limit order book models, labels and verdicts after costs. Importing this imports no torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from domains.finance.backtest import Trading
    from domains.finance.data.book import BookSeries
    from domains.finance.data.config import DataConfig
    from domains.finance.data.reading import read_books
    from domains.finance.data.reconstruct import reconstruct
    from domains.finance.models import (
        MLPLOB,
        TLOB,
        BilinearNormalisation,
        BiNCTABL,
        DeepLOB,
        LiveBook,
        StreamingLOB,
    )

_MODELS = (
    "MLPLOB",
    "TLOB",
    "BiNCTABL",
    "BilinearNormalisation",
    "DeepLOB",
    "LiveBook",
    "StreamingLOB",
)
_HOMES = {
    **dict.fromkeys(_MODELS, "domains.finance.models"),
    "BookSeries": "domains.finance.data.book",
    "DataConfig": "domains.finance.data.config",
    "Trading": "domains.finance.backtest",
    "read_books": "domains.finance.data.reading",
    "reconstruct": "domains.finance.data.reconstruct",
}
__all__ = [
    "MLPLOB",
    "TLOB",
    "BiNCTABL",
    "BilinearNormalisation",
    "BookSeries",
    "DataConfig",
    "DeepLOB",
    "LiveBook",
    "StreamingLOB",
    "Trading",
    "read_books",
    "reconstruct",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

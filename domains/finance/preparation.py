"""From files to windows of training, validation and test, and what prediction needs again."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from domains.finance.data.book import BookSeries
from domains.finance.data.config import DataConfig
from domains.finance.data.labels import CLASS_NAMES
from domains.finance.data.reading import read_books
from domains.finance.data.sampling import sample
from domains.finance.data.splits import Parts, require_unseen, spans, split, take
from domains.finance.data.thresholds import Alpha
from domains.finance.data.windows import Fitted, Windows, make_windows
from shared_runtime.domain import Prepared
from shared_runtime.errors import DataError

_BLOCK = 4096
NORMALISED = "normalised, in no currency"
"""What `summary["prices"]` says of prices that cannot be traded; it is left out for others."""
_FIXED = ("levels", "sample", "every", "features", "lookback", "horizon", "label", "smoothing")
"""Settings of the data that a trained model cannot do without."""


def prepare(data: DataConfig, preprocessing: Mapping[str, Any] | None) -> Prepared:
    """Read, sample, split and label order books, and cut them into windows.

    Threshold and scaler are fitted on the training part, or taken from `preprocessing`.

    Raises:
        DataError: the data cannot be used, or do not fit the trained model.
    """
    series = read_sampled(data)
    fitted = None
    if preprocessing is not None:
        _require_same(data, preprocessing)
        fitted = Fitted.from_json(preprocessing)
    parts = split(series, data)
    trained = spans(take(series, parts.train))
    if preprocessing is not None and parts.kind != "files":
        require_unseen(preprocessing["trained_on"], take(series, parts.test))
    windows = make_windows(series, parts, data, fitted)
    train = windows["train"]
    return Prepared(
        train=train,
        val=windows["val"],
        test=windows["test"],
        model_arguments={"lookback": data.lookback, "features": len(train.fitted.names)},
        preprocessing={
            **train.fitted.to_json(),
            "data": _plain(data),
            "shares": list(train.shares()),
            "trained_on": trained if preprocessing is None else preprocessing["trained_on"],
        },
        data_hash=_hash(series),
        summary=_summary(data, series, parts, windows),
    )


def read_sampled(data: DataConfig) -> list[BookSeries]:
    """Return the series of the data at their sampling points.

    Raises:
        DataError: lists every error of the files.
    """
    series, problems = read_books(data)
    errors = [f"{p.where}: {p.what}; {p.remedy}" for p in problems if p.severity == "error"]
    if errors:
        raise DataError("\n".join(errors))
    return [sample(one, data.sample, data.every) for one in series]


def data_of(preprocessing: Mapping[str, Any], source: Path) -> DataConfig:
    """Return the `data:` section a model was trained with, for another file."""
    kept = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in preprocessing["data"].items()
    }
    given: dict[str, Any] = {**kept, "path": source, "format": "auto"}
    return DataConfig(**given)


def _require_same(data: DataConfig, preprocessing: Mapping[str, Any]) -> None:
    trained = preprocessing["data"]
    for name in _FIXED:
        if getattr(data, name) != trained[name]:
            raise DataError(
                f"data.{name} is {getattr(data, name)!r}, the model was trained with "
                f"{trained[name]!r}; train another model to change it"
            )


def _plain(data: DataConfig) -> dict[str, Any]:
    state = dataclasses.asdict(data)
    return {
        key: list(v) if isinstance(v, tuple) else v for key, v in state.items() if key != "path"
    }


def _hash(series: Sequence[BookSeries]) -> str:
    digest = hashlib.sha256()
    for one in series:
        digest.update(f"{one.instrument} {one.day}".encode())
        digest.update(np.ascontiguousarray(one.time).view(np.uint8).data)
        for start in range(0, len(one), _BLOCK):
            rows = np.ascontiguousarray(one.book[start : start + _BLOCK])
            digest.update(rows.view(np.uint8).data)
    return digest.hexdigest()


def _summary(
    data: DataConfig, series: Sequence[BookSeries], parts: Parts, windows: Mapping[str, Windows]
) -> dict[str, Any]:
    days = {
        (one.instrument, one.day) for part in parts.items().values() for one in take(series, part)
    }
    instruments = sorted({name for name, _ in days})
    alpha = windows["train"].fitted.alpha
    summary: dict[str, Any] = {
        "source": data.path.name,
        "instruments": ", ".join(instruments[:5]) + (", ..." if len(instruments) > 5 else ""),
        "days": len({day for _, day in days}),
        "rows": sum(len(one) for one in series),
        "split": parts.kind,
        "label": f"{data.label}, {data.horizon} rows ahead",
        "threshold": "came with the data" if data.label == "given" else _bps(alpha),
        "features": f"{data.features}, {len(windows['train'].fitted.names)}",
    }
    if any(one.normalised for one in series):
        summary["prices"] = NORMALISED
    for name, part in windows.items():
        shares = ", ".join(
            f"{c} {share:.1%}" for c, share in zip(CLASS_NAMES, part.shares(), strict=True)
        )
        summary[f"{name} windows"] = f"{len(part)} ({shares})"
    return summary


def _bps(alpha: Alpha) -> str:
    low, high = alpha if isinstance(alpha, tuple) else (-alpha, alpha)
    return f"{1e4 * low:+.3g} and {1e4 * high:+.3g} bps"

"""Forecasts of everything a model is compared with, on the same windows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from domains.finance import rules
from domains.finance.baselines import fitted_baselines
from domains.finance.data.labels import known_part
from domains.finance.data.windows import Windows
from shared_runtime.domain import Prepared

_MOST_KEPT = 4
_kept: dict[str, dict[str, np.ndarray]] = {}
RULES = ("majority", "level-1 imbalance", "drift rule")


def rival_forecasts(prepared: Prepared, split: str) -> dict[str, np.ndarray]:
    """Return probabilities `[n, 3]` of rules and fitted baselines, by name.

    Rules are sure of what they say, so their log loss and calibration mean nothing. Without real
    prices there is no drift. They depend on the data alone, so the latest few are kept.
    """
    state = json.dumps(prepared.preprocessing, sort_keys=True)
    key = hashlib.sha256(f"{prepared.data_hash} {split} {state}".encode()).hexdigest()
    if key not in _kept:
        found = _rivals(prepared, _windows(prepared, "train"), _windows(prepared, split))
        while len(_kept) >= _MOST_KEPT:
            del _kept[next(iter(_kept))]
        _kept[key] = found
    return dict(_kept[key])


def _rivals(prepared: Prepared, train: Windows, items: Windows) -> dict[str, np.ndarray]:
    data: Mapping[str, Any] = prepared.preprocessing["data"]
    label = str(data["label"]), int(data["smoothing"]), int(data["horizon"])
    bounds = rules.terciles(_imbalance(train))
    found = {
        "majority": rules.majority(train.label, len(items)),
        "level-1 imbalance": rules.imbalance_rule(_imbalance(items), bounds),
    }
    if label[0] in ("tlob", "deeplob"):
        found["drift rule"] = rules.drift_rule(known(items, label), train.fitted.alpha)
    return found | fitted_baselines(train, items)


def known(windows: Windows, label: tuple[str, int, int]) -> np.ndarray:
    """Return the known part of the label of each window, `[n]`; NaN at the start of a series."""
    name, smoothing, horizon = label
    parts = [
        known_part(windows.mid[windows.series == number], name, smoothing, horizon)
        for number in range(len(windows.origins))
    ]
    return np.concatenate([*parts, np.zeros(0)])[windows.ends]


def _imbalance(windows: Windows) -> np.ndarray:
    return rules.imbalance(windows.bid_size, windows.ask_size)[windows.ends]


def _windows(prepared: Prepared, split: str) -> Windows:
    items = getattr(prepared, split)
    assert isinstance(items, Windows)
    return items

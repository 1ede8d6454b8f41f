"""Forecasts of one file: one row for each state of the book that has a whole window before it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from domains.finance.data.labels import CLASS_NAMES
from domains.finance.data.windows import Fitted, Windows, prediction_windows
from domains.finance.inference import probabilities
from domains.finance.market import is_clock
from domains.finance.preparation import data_of, read_sampled
from shared_runtime.domain import LoadedModel
from shared_runtime.errors import DataError


def predict(
    loaded: LoadedModel, source: Path, *, batch_size: int, device: torch.device
) -> pd.DataFrame:
    """Return the class and the probability of each class for every window of a file.

    Raises:
        DataError: the file cannot be read or does not fit the model.
    """
    data = data_of(loaded.preprocessing, source)
    series = read_sampled(data)
    windows = prediction_windows(series, data, Fitted.from_json(loaded.preprocessing))
    if len(windows) == 0:
        longest = max((len(one) for one in series), default=0)
        raise DataError(
            f"{source}: its longest unbroken stretch has {longest} rows, the model needs "
            f"{data.lookback}; give a longer file"
        )
    probability = probabilities(loaded.model, windows, batch_size=batch_size, device=device)
    return forecast_table(windows, probability)


def forecast_table(windows: Windows, probability: np.ndarray) -> pd.DataFrame:
    """Return one row per window: what it is of, the quotes, and the forecast.

    `time` is in seconds after midnight of `day`, an ISO time where the file has no day, or
    the number of the row where it has no times.
    """
    ends = windows.ends
    origins = [windows.origins[number] for number in windows.series[ends]]
    table = pd.DataFrame(
        {
            "instrument": [origin.instrument for origin in origins],
            "day": [origin.day for origin in origins],
            "time": _clock(windows.time[ends], bool(origins and origins[0].day)),
            "bid": windows.bid[ends],
            "ask": windows.ask[ends],
            "predicted": np.asarray(CLASS_NAMES)[probability.argmax(axis=1)],
        }
    )
    for number, name in enumerate(CLASS_NAMES):
        table[f"p_{name}"] = probability[:, number]
    if (windows.label >= 0).all():
        table.insert(5, "label", np.asarray(CLASS_NAMES)[windows.label])
    return table


def _clock(time: np.ndarray, after_midnight: bool) -> np.ndarray | list[str]:
    if len(time) and not is_clock(int(time.max())):
        return time
    if not after_midnight:
        return np.datetime_as_string(time.astype("datetime64[ns]"), unit="ns").tolist()
    return [f"{value // 10**9}.{value % 10**9:09d}" for value in time.tolist()]

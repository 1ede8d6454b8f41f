"""The Python entry points: data of a published split, and forecasts of a trained run."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pandas as pd

from domains.forecasting import domain
from domains.forecasting.data.config import DataConfig
from domains.forecasting.models.registry import MODELS
from shared_runtime.domain import Domain, Prepared
from shared_runtime.verbs.predict import predict


def load_ett(path: str | Path, *, lookback: int = 96, horizon: int = 96) -> Prepared:
    """Return windows of an ETT file with the published 12/4/4 months split.

    `prepared.train`, `.val` and `.test` have `len()` and `batch(indices)`, which returns the
    tensors `past [B, L, C]`, `past_time [B, L, F]`, `future_time [B, H, F]`, `future [B, H, C]`,
    standardised by the training part.

    Args:
        path: `ETTh1.csv` or another file of the family, under its published name.
        lookback: steps L a model sees.
        horizon: steps H to forecast.

    Raises:
        DataError: the file cannot be read or is too short.
    """
    data = DataConfig(path=Path(path), lookback=lookback, horizon=horizon)
    return domain.prepare(data, spec=MODELS[domain.DEFAULT_MODEL], seed=0)


def forecast(run: str | Path, data: str | Path, *, device: str = "auto") -> pd.DataFrame:
    """Forecast past the end of `data` with the model of a run folder.

    Args:
        run: folder that `heed forecasting train` wrote.
        data: file in the format the model was trained on.
        device: auto, cpu or cuda.

    Raises:
        DataError: the file cannot be used.
        UsageError: the folder holds no trained model.
    """
    return predict(cast(Domain, domain), Path(run), Path(data), device=device).table

"""Baselines: the published protocol to three decimals, and each against plain arithmetic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from domains.forecasting import domain
from domains.forecasting.backtest import backtest_table
from domains.forecasting.baselines import batches, fit_ridge, repeat_last, seasonal_naive
from domains.forecasting.data.config import DataConfig
from domains.forecasting.data.windows import WindowSet
from domains.forecasting.forecasting_runs import observed_targets, prepare
from domains.forecasting.metrics import Scores, naive_scales
from domains.forecasting.models.registry import MODELS
from shared_runtime.domain import Prepared

SPEC = MODELS[domain.DEFAULT_MODEL]
ETT = "ETTh1.csv"
EXCHANGE = "exchange_rate.csv"
ILLNESS = "national_illness.csv"


def prepared(path: Path, **options: object) -> Prepared:
    return prepare(DataConfig(path=path, **options), SPEC, None)


def baselines(path: Path, **options: object) -> dict[str, tuple[float, float]]:
    found = domain.baselines(prepared(path, **options), "test")
    return {name: (values["mse"], values["mae"]) for name, values in found.items()}


def repeat(path: Path, **options: object) -> tuple[float, float]:
    windows = prepared(path, **options).test
    assert isinstance(windows, WindowSet)
    squared = absolute = count = 0.0
    for _, batch in batches(windows):
        error = (repeat_last(batch) - batch["future"]).double()
        squared += float(error.square().sum())
        absolute += float(error.abs().sum())
        count += error.numel()
    return squared / count, absolute / count


PUBLISHED = [
    (ETT, 96, 96, (1.295, 0.713)),
    (ETT, 96, 192, (1.325, 0.733)),
    (ETT, 96, 336, (1.323, 0.744)),
    (ETT, 96, 720, (1.339, 0.756)),
    (EXCHANGE, 96, 96, (0.081, 0.196)),
    (EXCHANGE, 96, 192, (0.167, 0.289)),
    (EXCHANGE, 96, 336, (0.305, 0.396)),
    (EXCHANGE, 96, 720, (0.823, 0.681)),
    (ILLNESS, 36, 24, (6.587, 1.701)),
    (ILLNESS, 36, 36, (7.130, 1.884)),
    (ILLNESS, 36, 48, (6.575, 1.798)),
    (ILLNESS, 36, 60, (5.893, 1.677)),
]
FULL_TEST = [
    (ETT, 96, 96, (1.294, 0.713)),
    (ETT, 96, 192, (1.325, 0.733)),
    (ETT, 96, 336, (1.330, 0.746)),
    (ETT, 96, 720, (1.335, 0.755)),
    (EXCHANGE, 96, 720, (0.810, 0.676)),
    (ILLNESS, 36, 24, (6.213, 1.622)),
    (ILLNESS, 36, 60, (6.885, 1.788)),
]


@pytest.mark.parametrize(("file", "lookback", "horizon", "expected"), PUBLISHED)
def test_repeat_reproduces_the_published_protocol(
    heed_data: Path, file: str, lookback: int, horizon: int, expected: tuple[float, float]
) -> None:
    path = heed_data / "forecasting" / file
    found = repeat(path, lookback=lookback, horizon=horizon, drop_last_compat=32)
    assert tuple(round(value, 3) for value in found) == expected


@pytest.mark.parametrize(("file", "lookback", "horizon", "expected"), FULL_TEST)
def test_repeat_on_the_full_test(
    heed_data: Path, file: str, lookback: int, horizon: int, expected: tuple[float, float]
) -> None:
    path = heed_data / "forecasting" / file
    found = repeat(path, lookback=lookback, horizon=horizon)
    assert tuple(round(value, 3) for value in found) == expected


def test_every_baseline_of_ett_at_96(heed_data: Path) -> None:
    found = baselines(heed_data / "forecasting" / ETT)
    assert {name: tuple(round(v, 3) for v in pair) for name, pair in found.items()} == {
        "repeat": (1.294, 0.713),
        "seasonal naive (24)": (0.512, 0.433),
        "ridge": (0.383, 0.392),
    }


@pytest.mark.parametrize(
    ("file", "lookback", "horizon", "expected"),
    [
        (ETT, 96, 720, (0.461, 0.456)),
        (EXCHANGE, 96, 720, (0.813, 0.678)),
        (ILLNESS, 36, 24, (2.578, 1.029)),
    ],
)
def test_ridge_of_other_rows(
    heed_data: Path, file: str, lookback: int, horizon: int, expected: tuple[float, float]
) -> None:
    path = heed_data / "forecasting" / file
    found = baselines(path, lookback=lookback, horizon=horizon)["ridge"]
    assert found == pytest.approx(expected, abs=6e-4)


def test_window_counts_are_those_of_the_field(heed_data: Path) -> None:
    data = prepared(heed_data / "forecasting" / ETT, horizon=24)
    assert (len(data.train), len(data.val), len(data.test)) == (8521, 2857, 2857)


def batch_of(past: Tensor, horizon: int, valid: Tensor | None = None) -> dict[str, Tensor]:
    batch = {"past": past, "future": past.new_zeros(len(past), horizon, past.shape[2])}
    return batch if valid is None else {**batch, "valid": valid}


def test_repeat_and_season_take_the_last_readable_values() -> None:
    past = torch.arange(12.0).reshape(1, 6, 2)
    assert repeat_last(batch_of(past, 2)).tolist() == [[[10, 11], [10, 11]]]
    season = seasonal_naive(batch_of(past, 5), 2)
    assert season[0, :, 0].tolist() == [8, 10, 8, 10, 8]
    valid = torch.tensor([[False, True, True, True, False, False]])
    assert repeat_last(batch_of(past, 1, valid)).tolist() == [[[6, 7]]]
    masked = seasonal_naive(batch_of(past, 5, valid), 3)
    assert masked[0, :, 0].tolist() == [6, 6, 6, 6, 6]
    assert seasonal_naive(batch_of(past, 1), 7)[0, 0, 0] == 10


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    date = pd.date_range("2024-01-01", periods=400, freq="h")
    wave = np.sin(np.arange(400) * 2 * np.pi / 24)
    frame = pd.DataFrame(
        {name: wave * s + rng.normal(0, 0.5, 400) for name, s in {"a": 1, "b": 3}.items()}
    )
    frame.insert(0, "date", date)
    frame.to_csv(tmp_path / "series.csv", index=False)
    return tmp_path / "series.csv"


def test_ridge_agrees_with_sklearn_at_its_penalty(table: Path) -> None:
    data = prepared(table, lookback=30, horizon=5)
    assert isinstance(data.train, WindowSet)
    ridge = fit_ridge(data.train, data.val)

    def arrays(windows: WindowSet) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        batch = windows.batch(np.arange(len(windows)))
        past, future = batch["past"].double().numpy(), batch["future"].double().numpy()
        last = past[:, -1:]
        flat = (past - last).transpose(0, 2, 1).reshape(-1, 30)
        return flat, (future - last).transpose(0, 2, 1).reshape(-1, 5), last

    inputs, targets, _ = arrays(data.train)
    val_inputs, val_targets, _ = arrays(data.val)
    grid = 10.0 ** np.arange(-2, 6)
    models = [Ridge(alpha=a, fit_intercept=False).fit(inputs, targets) for a in grid]
    errors = [np.square(model.predict(val_inputs) - val_targets).mean() for model in models]
    assert ridge.penalty == grid[int(np.argmin(errors))]
    peer = models[int(np.argmin(errors))]
    np.testing.assert_allclose(ridge.weights.numpy(), peer.coef_.T, atol=1e-8)
    test_inputs, _, last = arrays(data.test)
    batch = data.test.batch(np.arange(len(data.test)))
    expected = peer.predict(test_inputs).reshape(-1, 2, 5).transpose(0, 2, 1) + last
    np.testing.assert_allclose(ridge(batch).numpy(), expected, rtol=1e-5, atol=1e-5)


def test_published_protocol_leaves_out_the_last_partial_batch(table: Path) -> None:
    whole, part = (
        prepared(table, lookback=30, horizon=5, drop_last_compat=size).test for size in (0, 16)
    )
    assert isinstance(whole, WindowSet)
    assert isinstance(part, WindowSet)
    assert len(part) == len(whole) // 16 * 16 < len(whole)
    np.testing.assert_array_equal(part.cutoffs, whole.cutoffs[: len(part)])


def shops(folder: Path) -> Path:
    rng = np.random.default_rng(1)
    parts = []
    for name, days in (("north", 120), ("south", 90)):
        date = pd.date_range(end="2024-06-30", periods=days, freq="D")
        y = 20 + 5 * np.sin(2 * np.pi * date.dayofweek / 7) + rng.normal(0, 0.3, days)
        parts.append(pd.DataFrame({"unique_id": name, "ds": date, "y": y}))
    path = folder / "shops.csv"
    pd.concat(parts).to_csv(path, index=False)
    return path


def test_statistical_models_forecast_the_season(tmp_path: Path) -> None:
    pytest.importorskip("statsforecast")
    found = baselines(shops(tmp_path), lookback=21, horizon=7)
    assert found["AutoETS"][0] < 0.1 * found["repeat"][0]
    assert found["AutoTheta"][0] < 0.1 * found["repeat"][0]


def test_backtest_rows_are_the_cutoffs(tmp_path: Path) -> None:
    data = prepared(shops(tmp_path), lookback=21, horizon=7, cutoffs=3, cutoff_step=2)
    windows = data.test
    assert isinstance(windows, WindowSet)
    panel = windows.store.panel
    scales = naive_scales(panel.values, panel.offsets[:-1], panel.offsets[1:], 7)
    scores = Scores(windows.store.scaler, scales)
    for indices, batch in batches(windows, 4):
        forecast = repeat_last(batch).unsqueeze(-1).numpy()
        future = batch["future"].numpy()
        scores.add(forecast, future, observed_targets(batch), windows.series[indices])
    table = backtest_table(windows, scores)
    assert list(table["cutoff"].astype(str)) == ["2024-06-19", "2024-06-21", "2024-06-23"]
    assert table["windows"].tolist() == [2, 2, 2]
    for row, chosen in enumerate(([0, 3], [1, 4], [2, 5])):
        batch = windows.batch(np.array(chosen))
        error = (repeat_last(batch) - batch["future"]).double()
        assert table["mse"][row] == pytest.approx(float(error.square().mean()))
        assert table["mae"][row] == pytest.approx(float(error.abs().mean()))
    assert scores.windows == len(windows)

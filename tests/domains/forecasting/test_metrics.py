"""Metrics against utilsforecast, in any batch size, with missing targets left out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from utilsforecast import losses

from domains.forecasting.data.scaling import Scaler
from domains.forecasting.metrics import NaiveScales, Scores, central_pairs, naive_scales
from shared_runtime.domain import Interval
from shared_runtime.errors import HeedError

QUANTILES = (0.1, 0.4, 0.5, 0.6, 0.9)
SEASON = 4
SERIES, TRAIN, HORIZON = 5, 40, 6


@pytest.fixture
def data() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    scale = rng.uniform(1, 300, (SERIES, 1))
    train = scale * (2 + rng.normal(size=(SERIES, TRAIN)))
    truth = scale * (2 + rng.normal(size=(SERIES, HORIZON)))
    truth[0, 0] = 0
    noise = np.sort(rng.normal(size=(SERIES, HORIZON, len(QUANTILES))), axis=-1)
    forecast = truth[..., None] + scale[..., None] * noise
    forecast[0, 0] = 0
    return {"train": train, "truth": truth, "forecast": forecast}


def scores_of(
    data: dict[str, np.ndarray],
    observed: np.ndarray | None = None,
    *,
    batch: int = SERIES,
    quantiles: tuple[float, ...] = QUANTILES,
) -> Scores:
    train = data["train"]
    scaler = Scaler(
        train.mean(1, keepdims=True), train.std(1, keepdims=True), np.zeros(0), np.ones(0)
    )
    starts = np.arange(SERIES) * TRAIN
    scales = naive_scales(train.reshape(-1, 1), starts, starts + TRAIN, SEASON)
    scores = Scores(scaler, scales, quantiles)
    mean, std = scaler.mean[:, :, None], scaler.std[:, :, None]
    target = (data["truth"][..., None] - mean) / std
    forecast = (data["forecast"][:, :, None, :] - mean[..., None]) / std[..., None]
    if not quantiles:
        forecast = forecast[..., 2:3]
    observed = np.ones(target.shape, dtype=bool) if observed is None else observed
    for first in range(0, SERIES, batch):
        rows = np.arange(first, min(first + batch, SERIES))
        scores.add(forecast[rows], target[rows], observed[rows], rows)
    return scores


def metrics_of(*args: object, **kwargs: object) -> dict[str, Interval]:
    return scores_of(*args, **kwargs).metrics(block=1, seed=0)  # type: ignore[arg-type]


def frames(data: dict[str, np.ndarray]) -> tuple[pd.DataFrame, pd.DataFrame]:
    def frame(values: np.ndarray, first: int) -> pd.DataFrame:
        count = values.shape[1]
        return pd.DataFrame(
            {
                "unique_id": np.repeat([f"s{n}" for n in range(SERIES)], count),
                "ds": np.tile(np.arange(first, first + count), SERIES),
                "y": values.ravel(),
            }
        )

    test = frame(data["truth"], TRAIN)
    for place, level in enumerate(QUANTILES):
        test[f"q{level}"] = data["forecast"][..., place].ravel()
    return test, frame(data["train"], 0)


def test_point_metrics_agree_with_utilsforecast(data: dict[str, np.ndarray]) -> None:
    test, train = frames(data)
    ours = metrics_of(data)
    model = ["q0.5"]
    expected = {
        "original_mse": losses.mse(test, model),
        "original_mae": losses.mae(test, model),
        "smape": losses.smape(test, model),
        "mase": losses.mase(test, model, SEASON, train),
        "rmsse": losses.rmsse(test, model, SEASON, train),
    }
    for name, table in expected.items():
        assert ours[name].value == pytest.approx(table["q0.5"].mean(), rel=1e-9), name
    assert ours["original_rmse"].value == pytest.approx(ours["original_mse"].value ** 0.5)


def test_quantile_metrics_agree_with_utilsforecast(data: dict[str, np.ndarray]) -> None:
    test, _ = frames(data)
    ours = metrics_of(data)
    columns = {"model": [f"q{level}" for level in QUANTILES]}
    pooled = losses.scaled_crps(test.assign(unique_id="all"), columns, np.array(QUANTILES))
    assert ours["wql"].value == pytest.approx(pooled["model"].item(), rel=1e-9)
    for low, high, level in ((0.1, 0.9, 80), (0.4, 0.6, 20)):
        names = {f"q{low}": f"m-lo-{level}", f"q{high}": f"m-hi-{level}"}
        cover = losses.coverage(test.rename(columns=names), ["m"], level)["m"].mean()
        assert ours[f"coverage_{level}"].value == pytest.approx(cover)


def test_standardised_errors_are_those_of_the_papers(data: dict[str, np.ndarray]) -> None:
    ours = metrics_of(data, quantiles=())
    std = data["train"].std(1, keepdims=True)
    error = (data["forecast"][..., 2] - data["truth"]) / std
    assert ours["mse"].value == pytest.approx((error**2).mean())
    assert ours["mae"].value == pytest.approx(np.abs(error).mean())
    assert "wql" not in ours


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_no_result_depends_on_the_batch_size(data: dict[str, np.ndarray], batch: int) -> None:
    observed = np.random.default_rng(1).random((SERIES, HORIZON, 1)) < 0.7
    whole, split = metrics_of(data, observed), metrics_of(data, observed, batch=batch)
    assert whole.keys() == split.keys()
    for name, interval in whole.items():
        assert vars(interval) == pytest.approx(vars(split[name])), name


def test_missing_targets_are_left_out_of_every_metric(data: dict[str, np.ndarray]) -> None:
    observed = np.ones((SERIES, HORIZON, 1), dtype=bool)
    observed[:, ::2] = False
    kept = {
        "train": data["train"],
        "truth": data["truth"][:, 1::2],
        "forecast": data["forecast"][:, 1::2],
    }
    spoiled = {**data, "truth": data["truth"].copy()}
    spoiled["truth"][:, ::2] = np.nan
    for name, interval in metrics_of(kept).items():
        assert interval.value == pytest.approx(metrics_of(spoiled, observed)[name].value), name
    assert scores_of(spoiled, observed).per_window()["count"].tolist() == [HORIZON // 2] * SERIES


def test_errors_by_step_and_by_window(data: dict[str, np.ndarray]) -> None:
    scores = scores_of(data, batch=2)
    std = data["train"].std(1, keepdims=True)
    error = (data["forecast"][..., 2] - data["truth"]) / std
    np.testing.assert_allclose(scores.by_step(), np.abs(error).mean(0))
    np.testing.assert_allclose(scores.per_window()["squared"], (error**2).sum(1))
    assert scores.windows == SERIES


def test_what_cannot_be_scored_is_one_line(data: dict[str, np.ndarray]) -> None:
    nothing = np.zeros((SERIES, HORIZON, 1), dtype=bool)
    with pytest.raises(ValueError, match="no observed value to score"):
        metrics_of(data, nothing)
    data["forecast"][3, 1, 0] = np.nan
    with pytest.raises(HeedError, match="window 3: the forecast is not finite"):
        scores_of(data, batch=2)


def test_scales_leave_out_missing_and_constant_series() -> None:
    values = np.array([[1.0], [2.0], [4.0], [np.nan], [16.0], [5.0], [5.0], [5.0], [np.nan], [3.0]])
    scales = naive_scales(values, np.array([0, 5, 8]), np.array([5, 8, 10]), season=1)
    np.testing.assert_allclose(scales.absolute, [[1.5], [np.nan], [np.nan]])
    np.testing.assert_allclose(scales.squared, [[2.5], [np.nan], [np.nan]])
    short = naive_scales(values[:3], np.array([0]), np.array([3]), season=7)
    assert isinstance(short, NaiveScales)
    np.testing.assert_allclose(short.absolute, [[1.5]])


def test_central_pairs_are_symmetric_levels() -> None:
    assert central_pairs(QUANTILES) == [(0, 4, 0.8), (1, 3, 0.2)]
    assert central_pairs((0.1, 0.5)) == []

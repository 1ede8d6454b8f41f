"""Splits, scaling and windows: what each part sees, and that a batch is what it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.preprocessing import StandardScaler

from domains.forecasting.data.calendar import calendar_covariates
from domains.forecasting.data.config import DataConfig
from domains.forecasting.data.panel import Panel
from domains.forecasting.data.scaling import Scaler, fit_scaler, make_scaler, unit_scaler
from domains.forecasting.data.splits import split_panel
from domains.forecasting.data.windows import WindowSet, build_store, training_windows
from shared_runtime.errors import DataError

FILE = Path("series.csv")


def make_panel(
    lengths: list[int], channels: int = 1, past: int = 0, future: int = 0, seed: int = 0
) -> Panel:
    rng = np.random.default_rng(seed)
    total = sum(lengths)
    times = [
        pd.date_range(end="2024-06-30", periods=n, freq="h").to_numpy("datetime64[ns]")
        for n in lengths
    ]
    return Panel(
        layout="wide" if len(lengths) == 1 else "long",
        ids=tuple(f"s{n}" for n in range(len(lengths))),
        channels=tuple(f"c{n}" for n in range(channels)),
        values=rng.normal(50, 9, (total, channels)),
        past_covariates=rng.normal(300, 20, (total, past)),
        future_covariates=rng.normal(-4, 0.1, (total, future)),
        times=np.concatenate(times),
        offsets=np.r_[0, np.cumsum(lengths)],
        frequency="h",
        timezone=None,
        time_column="ds",
    )


def config(**options: object) -> DataConfig:
    return DataConfig(**{"path": FILE, "lookback": 8, "horizon": 3, **options})


@pytest.mark.parametrize(("kind", "per_hour"), [("ett_hour", 1), ("ett_minute", 4)])
def test_published_ett_split_looks_back_into_the_part_before(kind: str, per_hour: int) -> None:
    panel = make_panel([17_420 * per_hour])
    if per_hour == 4:
        panel = Panel(**{**vars(panel), "frequency": "15min"})
    _, split = split_panel(panel, config(split=kind, lookback=96, horizon=24))
    month = 720 * per_hour
    assert split.train_stop.tolist() == [12 * month]
    for (_, cutoffs), first in ((split.val, 12 * month), (split.test, 16 * month)):
        assert cutoffs[0] == first
        assert cutoffs[-1] == first + 4 * month - 24
        assert len(cutoffs) == 4 * month - 24 + 1


def test_published_split_of_another_frequency_is_refused() -> None:
    with pytest.raises(DataError, match="is for steps of 15min, this file has h"):
        split_panel(make_panel([70_000]), config(split="ett_minute"))


def test_fractions_are_cut_as_published() -> None:
    _, split = split_panel(make_panel([7588]), config(split="fractions", lookback=96, horizon=96))
    assert split.train_stop.tolist() == [5311]
    assert len(split.val[1]) == 760 - 95
    assert len(split.test[1]) == 1517 - 95


def test_rows_to_forecast_are_not_part_of_the_split() -> None:
    panel = make_panel([60, 50], future=1)
    panel.values[55:60] = np.nan
    panel.values[107:110] = np.nan
    kept, split = split_panel(panel, config(split="tail"))
    assert kept.lengths.tolist() == [55, 47]
    assert split.test[1].tolist() == [52, 44]
    assert not np.isnan(kept.values).any()


def test_tail_takes_rolling_cutoffs_from_the_end_of_every_series() -> None:
    panel = make_panel([40, 60])
    _, split = split_panel(panel, config(split="tail", cutoffs=3, cutoff_step=2))
    assert split.test[0].tolist() == [0, 0, 0, 1, 1, 1]
    assert split.test[1].tolist() == [33, 35, 37, 53, 55, 57]
    assert split.val[1].tolist() == [26, 28, 30, 46, 48, 50]
    assert split.train_stop.tolist() == [26, 46]


def test_short_series_are_an_error_or_dropped() -> None:
    panel = make_panel([40, 9])
    with pytest.raises(DataError, match=r"series 's1' has 9 rows.*needs 10 \(1 series.*short=drop"):
        split_panel(panel, config(split="tail"))
    kept, _ = split_panel(panel, config(split="tail", short="drop"))
    assert kept.ids == ("s0",)
    with pytest.raises(DataError, match="needs 10"):
        split_panel(make_panel([9, 9]), config(split="tail", short="drop"))
    with pytest.raises(DataError, match=r"30 rows are too few for data\.split=fractions"):
        split_panel(make_panel([30]), config(split="fractions", horizon=5))


def test_no_training_target_is_a_validation_or_test_target() -> None:
    panel, split = split_panel(make_panel([60, 45]), config(split="tail", cutoffs=2))
    store = build_store(panel, unit_scaler(panel), pad=8, carry_forward=False)
    train = training_windows(store, split.train_stop, 8, 3)
    last = {int(s): int(train.cutoffs[train.series == s].max()) + 3 for s in (0, 1)}
    for series, cutoff in zip(*split.val, strict=True):
        assert cutoff >= last[int(series)]
    assert split.val[1].max() + 3 <= split.test[1][split.val[0].argmax() :].min() + 60


def test_scaler_sees_training_rows_only_and_agrees_with_sklearn() -> None:
    panel = make_panel([50, 30], channels=2, past=1, future=1)
    stops = np.array([35, 10])
    scaler = fit_scaler(panel, stops)
    rows = [slice(0, 35), slice(50, 60)]
    for series, part in enumerate(rows):
        peer = StandardScaler().fit(panel.values[part])
        np.testing.assert_allclose(scaler.mean[series], peer.mean_)
        np.testing.assert_allclose(scaler.std[series], peer.scale_)
    covariates = np.hstack([panel.past_covariates, panel.future_covariates])
    peer = StandardScaler().fit(np.concatenate([covariates[part] for part in rows]))
    np.testing.assert_allclose(scaler.covariate_mean, peer.mean_)
    np.testing.assert_allclose(scaler.covariate_std, peer.scale_)
    panel.values[35:50] = 1e6
    panel.past_covariates[60:] = -1e6
    changed = fit_scaler(panel, stops)
    for name, value in vars(scaler).items():
        np.testing.assert_array_equal(getattr(changed, name), value)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e9, 1e-12])
def test_constant_and_empty_channels_keep_unit_spread(constant: float) -> None:
    panel = make_panel([40], channels=3)
    panel.values[:, 0] = constant
    panel.values[:, 1] = np.nan
    panel.values[:, 2] *= 1e-13
    scaler = fit_scaler(panel, np.array([40]))
    assert scaler.std[0, :2].tolist() == [1, 1]
    assert scaler.std[0, 2] == pytest.approx(panel.values[:, 2].std())


def test_scaler_is_whole_after_json_and_undone_by_its_inverse() -> None:
    panel = make_panel([50, 30], channels=2, past=1)
    scaler = Scaler.from_json(fit_scaler(panel, np.array([35, 10])).to_json())
    series = np.repeat([0, 1], [50, 30])
    scaled = scaler.transform(panel.values, series)
    assert scaled.dtype == np.float32
    windows = np.stack([scaled[:10], scaled[50:60]])
    back = scaler.inverse(windows, np.array([0, 1]))
    np.testing.assert_allclose(back, np.stack([panel.values[:10], panel.values[50:60]]), rtol=1e-5)
    both = scaler.inverse(np.stack([windows, windows], -1), np.array([0, 1]))
    np.testing.assert_array_equal(both[..., 0], back)


def test_a_trained_model_keeps_its_scale_for_series_it_knows() -> None:
    trained = make_panel([50, 30], past=1)
    state = {
        "channels": ["c0"],
        "ids": list(trained.ids),
        "scaler": fit_scaler(trained, np.array([50, 30])).to_json(),
    }
    fresh = make_panel([20, 20, 20], past=1, seed=5)
    fresh = Panel(**{**vars(fresh), "ids": ("s1", "new", "s0")})
    scaler = make_scaler(fresh, np.array([20, 20, 20]), "standard", state)
    own = fit_scaler(fresh, np.array([20, 20, 20]))
    np.testing.assert_array_equal(scaler.mean[[2, 0]], state["scaler"]["mean"])
    np.testing.assert_array_equal(scaler.mean[1], own.mean[1])
    np.testing.assert_array_equal(scaler.covariate_mean, state["scaler"]["covariate_mean"])
    with pytest.raises(DataError, match="trained on the channels other; the data have c0"):
        make_scaler(fresh, np.array([20, 20, 20]), "standard", {**state, "channels": ["other"]})


def windows_of(panel: Panel, *, pad: int, carry_forward: bool = False) -> WindowSet:
    store = build_store(panel, unit_scaler(panel), pad=pad, carry_forward=carry_forward)
    stops = panel.lengths
    return training_windows(store, stops, 8, 3)


def test_a_batch_is_what_slicing_gives() -> None:
    panel = make_panel([40, 12], channels=2, past=1, future=2)
    windows = windows_of(panel, pad=8)
    time = calendar_covariates(panel.local_times(), "h")
    order = np.random.default_rng(0).permutation(len(windows))
    batch = windows.batch(order)
    assert "future_valid" not in batch
    for row, item in enumerate(order):
        cutoff = int(panel.offsets[windows.series[item]] + windows.cutoffs[item])
        valid = np.arange(cutoff - 8, cutoff) >= panel.offsets[windows.series[item]]
        past = np.arange(cutoff - 8, cutoff)[valid]
        future = np.arange(cutoff, cutoff + 3)
        assert batch["valid"][row].tolist() == valid.tolist()
        pairs = [
            (batch["past"][row][valid], panel.values[past]),
            (batch["future"][row], panel.values[future]),
            (batch["past_time"][row][valid], time[past]),
            (batch["future_time"][row], time[future]),
            (batch["past_covariates"][row][valid][:, :1], panel.past_covariates[past]),
            (batch["past_covariates"][row][valid][:, 1:], panel.future_covariates[past]),
            (batch["future_covariates"][row], panel.future_covariates[future]),
        ]
        for got, expected in pairs:
            np.testing.assert_array_equal(got.numpy(), expected.astype(np.float32))


def test_padding_holds_nothing_of_other_series() -> None:
    windows = windows_of(make_panel([40, 12, 9]), pad=8)
    batch = windows.batch(np.arange(len(windows)))
    assert (batch["past"][~batch["valid"]] == 0).all()
    assert batch["valid"].any(dim=1).all()


def test_series_shorter_than_the_look_back_give_padded_windows() -> None:
    windows = windows_of(make_panel([40, 9, 4]), pad=8)
    counts = [int((windows.series == s).sum()) for s in range(3)]
    assert counts == [40 - 3 - 8 + 1, 4, 1]
    assert windows.cutoffs[windows.series == 1].tolist() == [3, 4, 5, 6]


def test_masked_values_are_not_read_and_not_scored() -> None:
    panel = make_panel([40], channels=2)
    panel.values[12, 1] = np.nan
    windows = windows_of(panel, pad=0)
    batch = windows.batch(np.arange(len(windows)))
    rows = windows.cutoffs[:, None] + np.arange(3)
    assert torch.equal(batch["future_valid"][..., 0], torch.ones(len(rows), 3, dtype=torch.bool))
    np.testing.assert_array_equal(batch["future_valid"][..., 1].numpy(), rows != 12)
    np.testing.assert_array_equal(
        batch["valid"].numpy(), windows.cutoffs[:, None] + np.arange(-8, 0) != 12
    )
    assert not batch["past"].isnan().any()
    whole = windows.batch(np.array([len(windows) - 1]))
    assert "valid" not in whole


def test_values_carried_forward_come_from_before_and_are_never_scored() -> None:
    panel = make_panel([40, 20])
    panel.values[[0, 1, 12, 13, 40, 45]] = np.nan
    windows = windows_of(panel, pad=8, carry_forward=True)
    store = windows.store
    assert store.values.dtype == torch.float32
    values = store.values[:, 0]
    rows = store.row(np.zeros(40, dtype=int), np.arange(40))
    expected = panel.values[:40, 0].astype(np.float32)
    assert values[rows[12]] == values[rows[13]] == expected[11]
    assert values[rows[14]] == expected[14]
    assert store.readable[rows][:3].tolist() == [False, False, True]
    assert not store.observed[rows[[0, 1, 12, 13]]].any()
    first, sixth = store.row(np.array([1, 1]), np.array([0, 5]))
    assert not store.readable[first]
    assert values[sixth] == np.float32(panel.values[44, 0])


def test_the_future_never_reaches_the_past_of_a_window() -> None:
    panel = make_panel([40], past=1)
    panel.values[20] = np.nan
    before = windows_of(panel, pad=0, carry_forward=True)
    panel.values[21:] += 1000
    panel.past_covariates[21:] += 1000
    after = windows_of(panel, pad=0, carry_forward=True)
    early = np.flatnonzero(before.cutoffs <= 21)
    first, second = before.batch(early), after.batch(early)
    for name in ("past", "past_covariates", "past_time"):
        assert torch.equal(first[name], second[name])

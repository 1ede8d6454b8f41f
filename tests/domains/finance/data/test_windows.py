"""Scaling and windows: every batch against slices taken by hand, and what training alone fits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import ndtri
from scipy.stats import rankdata

from domains.finance.data.book import BookSeries
from domains.finance.data.config import DataConfig
from domains.finance.data.features import features
from domains.finance.data.labels import classes, movement
from domains.finance.data.scaling import RankScaler, fit_rank_scaler, fit_scaler
from domains.finance.data.splits import split, take
from domains.finance.data.windows import Fitted, Windows, make_windows, prediction_windows
from shared_runtime.errors import DataError
from tests.domains.finance.data.made_books import SECOND, make_book


def config(**options: object) -> DataConfig:
    base = {"path": Path("lob"), "lookback": 8, "horizon": 5, "smoothing": 4, "levels": 3}
    return DataConfig(**{**base, **options})


def two_days() -> list[BookSeries]:
    return [make_book(300), make_book(260, day="2024-03-05", seed=3)]


def windows(options: dict[str, object] | None = None) -> dict[str, Windows]:
    chosen = config(**(options or {}))
    series = two_days()
    return make_windows(series, split(series, chosen), chosen)


@pytest.mark.parametrize("kind", ["relative", "book", "paper"])
def test_windows_are_slices_of_their_series(kind: str) -> None:
    chosen = config(features=kind)
    series = two_days()
    parts = split(series, chosen)
    made = make_windows(series, parts, chosen)
    for name, part in parts.items().items():
        one = made[name]
        expected, labels = [], []
        for piece in take(series, part):
            rows = features(piece, kind, 3, 4)
            change = movement(piece.mid, "tlob", 5, 4)
            label = classes(change, one.fitted.alpha)
            for end in range(7, len(piece)):
                if label[end] >= 0:
                    expected.append(rows[end - 7 : end + 1])
                    labels.append(label[end])
        indices = np.arange(len(one))
        np.testing.assert_array_equal(one.raw(indices), np.array(expected))
        np.testing.assert_array_equal(one.label, labels)
        scaler = one.fitted.scaler
        if isinstance(scaler, RankScaler):
            scaled = scaler.transform(np.array(expected).reshape(-1, len(one.fitted.names)))
            scaled = scaled.reshape(len(one), 8, -1)
        else:
            scaled = (np.array(expected) - scaler.mean) / scaler.std
        np.testing.assert_allclose(one.batch(indices)["x"].numpy(), scaled, rtol=1e-3, atol=2e-4)
        np.testing.assert_array_equal(one.last(), one.raw(indices)[:, -1])
        assert len(set(one.series.tolist())) == len(part)


def test_batches_have_the_stated_types_and_may_be_any_rows() -> None:
    one = windows()["train"]
    batch = one.batch(np.array([5, 0, 5]))
    assert {name: (tuple(t.shape), t.dtype) for name, t in batch.items()} == {
        "x": ((3, 8, one.features.shape[1]), torch.float32),
        "label": ((3,), torch.int64),
        "change": ((3,), torch.float32),
    }
    assert torch.equal(batch["x"][0], batch["x"][2])
    assert batch["change"][1] == pytest.approx(one.change[0] / one.fitted.alpha, rel=1e-6)
    batch["x"].zero_()
    assert one.batch(np.array([5]))["x"].abs().sum() > 0


def test_market_columns_are_those_of_the_rows() -> None:
    series = two_days()
    chosen = config()
    parts = split(series, chosen)
    one = make_windows(series, parts, chosen)["test"]
    pieces = take(series, parts.test)
    np.testing.assert_array_equal(one.mid, np.concatenate([piece.mid for piece in pieces]))
    np.testing.assert_array_equal(one.time, np.concatenate([piece.time for piece in pieces]))
    np.testing.assert_array_equal(
        one.ask_size, np.concatenate([piece.ask_size[:, 0] for piece in pieces])
    )
    assert [origin.day for origin in one.origins] == ["2024-03-04", "2024-03-05"]
    assert [origin.first_row for origin in one.origins] == [241, 209]
    assert one.origins[0].instrument == "AAA"


def test_training_alone_fits_threshold_and_scaler() -> None:
    chosen = config()
    series = two_days()
    parts = split(series, chosen)
    before = make_windows(series, parts, chosen)
    for one, stretch in zip(series, parts.train, strict=True):
        one.book[stretch.stop :, 0::2] += 7
        one.book[stretch.stop :, 1::2] *= 3
    after = make_windows(series, parts, chosen)
    assert before["test"].fitted.alpha == after["test"].fitted.alpha
    assert before["test"].fitted.to_json() == after["test"].fitted.to_json()
    np.testing.assert_array_equal(before["train"].label, after["train"].label)
    assert not np.array_equal(before["test"].features, after["test"].features)


@pytest.mark.parametrize("label", ["tlob", "fi2010", "deeplob", "return"])
def test_parts_do_not_read_each_other(label: str) -> None:
    """Other rows in one part leave features, labels and windows of the others as they were."""
    chosen = config(label=label)
    clean = two_days()
    parts = split(clean, chosen)
    before = make_windows(clean, parts, chosen)
    for changed, stretches in parts.items().items():
        series = two_days()
        for stretch in stretches:
            book = series[stretch.series].book
            book[stretch.start : stretch.stop, 0::2] *= 1.5
            book[stretch.start : stretch.stop, 1::2] += 900
        after = make_windows(series, parts, chosen, before["train"].fitted)
        for name in before:
            same = name != changed
            assert np.array_equal(before[name].features, after[name].features) == same
            if same:
                np.testing.assert_array_equal(before[name].label, after[name].label)
                np.testing.assert_array_equal(before[name].ends, after[name].ends)


def test_stride_thins_training_alone() -> None:
    every, thinned = windows(), windows({"train_stride": 3})
    assert len(thinned["train"]) == sum(
        -(-int((every["train"].series[every["train"].ends] == s).sum()) // 3) for s in (0, 1)
    )
    assert len(thinned["val"]) == len(every["val"])
    assert thinned["train"].fitted.to_json() == every["train"].fitted.to_json()


def test_fitted_survives_json() -> None:
    chosen = config(threshold="tercile", features="paper")
    series = two_days()
    parts = split(series, chosen)
    made = make_windows(series, parts, chosen)
    fitted = made["train"].fitted
    read = Fitted.from_json(json.loads(json.dumps(fitted.to_json())))
    assert read.alpha == fitted.alpha and isinstance(read.alpha, tuple)
    again = make_windows(series, parts, chosen, read)
    indices = np.arange(len(made["test"]))
    for name, tensor in made["test"].batch(indices).items():
        assert torch.equal(tensor, again["test"].batch(indices)[name])
    assert again["test"].shares() == made["test"].shares()


def test_prediction_reads_every_row_that_has_a_look_back() -> None:
    fitted = windows()["train"].fitted
    series = [make_book(30), make_book(5), make_book(9, seed=2)]
    made = prediction_windows(series, config(), fitted)
    assert made.ends.tolist() == [*range(7, 30), 42, 43]
    batch = made.batch(np.arange(len(made)))
    assert (batch["label"] == -1).all() and batch["change"].isnan().all()
    np.testing.assert_array_equal(
        made.raw(np.array([0]))[0], features(series[0], "relative", 3, 4)[:8]
    )
    assert len(prediction_windows([], config(), fitted)) == 0


def test_other_columns_than_trained_with_are_refused() -> None:
    fitted = windows()["train"].fitted
    with pytest.raises(DataError, match="features, the model was trained with"):
        prediction_windows([make_book(30, events=False)], config(), fitted)
    mixed = [make_book(300), make_book(300, events=False, instrument="BBB")]
    with pytest.raises(DataError, match="some files have order messages and others not"):
        make_windows(mixed, split(mixed, config()), config())


def test_given_labels_are_used_as_they_are() -> None:
    chosen = config(label="given", horizon=20, features="book")
    label = np.random.default_rng(0).integers(0, 3, (300, 2)).astype(np.int8)
    one = replace(make_book(300), given_labels=label, given_horizons=(10, 20), normalised=True)
    made = make_windows([one], split([one], chosen), chosen)
    test = made["test"]
    np.testing.assert_array_equal(test.label, label[240 + 7 :, 1])
    np.testing.assert_array_equal(test.batch(np.arange(len(test)))["change"], 1 - test.label)
    for wrong, message in (
        (replace(chosen, horizon=30), "labels for horizons 10, 20 came with this file"),
        (config(features="book"), "prices are normalised, so label tlob"),
    ):
        with pytest.raises(DataError, match=message):
            make_windows([one], split([one], wrong), wrong)


def test_rows_without_a_mid_have_no_label_and_finite_windows() -> None:
    one = make_book(300)
    one.book[100:104, 0:12:4] = np.nan
    one.book[100:104, 1:12:4] = 0
    made = make_windows([one], split([one], config()), config())["train"]
    unknown = set(range(100 - 5, 104 + 4))
    assert not unknown & set(made.ends.tolist())
    assert {94, 109} <= set(made.ends.tolist())
    assert torch.isfinite(made.batch(np.arange(len(made)))["x"]).all()


def test_scaler_ignores_what_is_not_finite() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(585, 0.01, (5000, 3)).astype(np.float32)
    rows[::7, 1] = np.nan
    rows[3, 1] = np.inf
    rows[:, 2] = 4.0
    scaler = fit_scaler([rows[:1000], rows[1000:]], np.arange(3))
    kept = rows[np.isfinite(rows[:, 1]), 1].astype(np.float64)
    np.testing.assert_allclose(scaler.mean[1], kept.mean(), rtol=1e-9)
    np.testing.assert_allclose(scaler.std[1], kept.std(), rtol=1e-6)
    assert scaler.std[2] == 1.0
    scaled = scaler.transform(rows)
    assert scaled[0, 1] == scaled[3, 1] == 0 and not scaled[:, 2].any()
    unseen = fit_scaler([np.full((4, 1), np.nan, np.float32)], np.zeros(1, int))
    assert (unseen.mean, unseen.std) == (0.0, 1.0)


def test_columns_of_a_group_share_their_scale() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal([10, 12, 500], [1, 2, 30], (4000, 3)).astype(np.float32)
    scaler = fit_scaler([rows], np.array([0, 0, 1]))
    assert scaler.mean[0] == scaler.mean[1] == pytest.approx(rows[:, :2].mean(), rel=1e-5)
    assert scaler.std[0] == scaler.std[1] == pytest.approx(rows[:, :2].std(), rel=1e-4)
    assert scaler.mean[2] == pytest.approx(500, abs=2)


def test_halts_are_never_inside_a_window() -> None:
    series = [make_book(300), make_book(300, start=40_000 * SECOND, seed=1)]
    made = make_windows(series, split(series, config()), config())["train"]
    assert len(made.origins) == 2
    begin = made.ends - (made.lookback - 1)
    np.testing.assert_array_equal(made.series[begin], made.series[made.ends])


def test_rank_scaler_gives_normal_scores_with_ties_in_the_middle() -> None:
    rng = np.random.default_rng(0)
    skewed = np.exp(3 * rng.standard_normal(20_000))
    tied = rng.choice([-1.0, 0.0, 2.0], p=[0.2, 0.6, 0.2], size=20_000)
    broken = np.where(np.arange(20_000) % 3, rng.standard_normal(20_000), np.nan)
    rows = np.stack([skewed, tied, broken, np.full(20_000, np.nan)], axis=1).astype(np.float32)
    scaler = fit_rank_scaler([rows[:9_000], rows[9_000:]])
    scores = scaler.transform(rows)
    exact = ndtri((rankdata(skewed) - 0.5) / len(skewed))
    inner = np.abs(exact) < 2
    np.testing.assert_allclose(scores[inner, 0], exact[inner], atol=0.05)
    middles = ndtri([0.1, 0.5, 0.9])
    for value, middle in zip((-1.0, 0.0, 2.0), middles, strict=True):
        np.testing.assert_allclose(scores[tied == value, 1], middle, atol=0.02)
    assert (scores[::3, 2] == 0).all() and (scores[:, 3] == 0).all()
    assert np.abs(scaler.transform(1e6 * rows)[:, :3]).max() < 3


def test_fitted_state_survives_json() -> None:
    for kind in ("relative", "book"):
        one = windows({"features": kind})["test"]
        again = Fitted.from_json(json.loads(json.dumps(one.fitted.to_json())))
        assert again.to_json() == one.fitted.to_json()
        np.testing.assert_array_equal(
            again.scaler.transform(one.features), one.fitted.scaler.transform(one.features)
        )

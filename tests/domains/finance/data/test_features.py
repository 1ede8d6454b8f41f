"""Features and order flow: values worked out by hand or by loops, and that none sees ahead."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from domains.finance.data.book import BookSeries, Events
from domains.finance.data.features import MEMORY, feature_names, features, scaling_groups
from domains.finance.data.order_flow import (
    event_flows,
    flow_names,
    flows,
    imbalance,
    micro_price,
    order_features,
    order_flow_imbalance,
)
from shared_runtime.errors import DataError
from tests.domains.finance.data.made_books import make_book

KINDS = ("relative", "book", "paper")


def quotes(rows: list[tuple[float, float, float, float]]) -> BookSeries:
    """Ask price, ask size, bid price, bid size of one level."""
    book = np.array(rows)
    return BookSeries("A", "", np.arange(len(book)) * 10**9, book, "x")


def test_order_flow_imbalance_by_hand() -> None:
    series = quotes(
        [
            (101, 5, 99, 4),
            (101, 5, 99, 7),  # bid grows by 3
            (101, 2, 99, 7),  # ask shrinks by 3
            (101, 2, 100, 1),  # bid rises: + 1
            (101, 2, 99, 7),  # bid falls: - 1
            (102, 6, 99, 7),  # ask rises: + 2
            (101, 4, 99, 7),  # ask falls: - 4
            (np.nan, 0, 99, 7),  # ask side empties: + 4
        ]
    )
    assert order_flow_imbalance(series)[:, 0].tolist() == [0, 3, 3, 1, -1, 2, -4, 4]


def test_order_flow_imbalance_of_deeper_levels_is_that_of_each_alone() -> None:
    series = make_book(200, levels=3)
    every = order_flow_imbalance(series, 3)
    for level in range(3):
        alone = replace(series, book=series.book[:, 4 * level : 4 * level + 4])
        np.testing.assert_array_equal(every[:, level], order_flow_imbalance(alone)[:, 0])


def test_micro_price_leans_to_the_thin_side() -> None:
    series = quotes([(101, 1, 99, 3), (101, 2, 99, 2), (101, 0, 99, 0)])
    assert micro_price(series).tolist() == [100.5, 100.0, 100.0]
    assert imbalance(series).tolist() == [0.5, 0.0, 0.0]


def messages(kind: list[int], price: list[float], direction: list[int]) -> BookSeries:
    rows = len(kind)
    events = Events(
        np.array(kind, np.int8),
        np.arange(rows),
        np.full(rows, 2.0),
        np.array(price, float),
        np.array(direction, np.int8),
    )
    book = np.tile([101.0, 5, 99, 4], (rows, 1))
    return BookSeries("A", "", np.arange(rows) * 10**9, book, "x", tick=0.5, events=events)


def test_event_flows_press_the_price_up_where_positive() -> None:
    series = messages(
        [1, 1, 1, 2, 3, 3, 4, 4, 5],
        [99, 98.5, 101, 99, 101, 102, 101, 99, 100],
        [1, 1, -1, 1, -1, -1, -1, 1, -1],
    )
    assert event_flows(series).T.tolist() == [
        [0, 0, 0, 0, 0, 0, 2, -2, 0],  # bought, sold
        [0, 0, 0, 0, 0, 0, 0, 0, 2],
        [0, 0, 0, 0, 0, 0, 2, 2, 2],
        [2, 0, -2, 0, 0, 0, 0, 0, 0],  # behind the best does not count
        [0, 0, 0, -2, 2, 0, 0, 0, 0],
    ]


def test_order_features_of_the_paper() -> None:
    series = messages([1, 2, 3, 4, 5], [98, 99, 101.5, 101, 100], [1, 1, -1, -1, 1])
    interval, code, size, price, direction, depth = order_features(series).T
    assert interval.tolist() == [0, 1, 1, 1, 1]
    assert code.tolist() == [0, 1, 1, 2, 2]
    assert size.tolist() == [2] * 5
    assert price.tolist() == [98, 99, 101.5, 101, 100]
    assert direction.tolist() == [1, 1, -1, 1, -1]
    assert depth.tolist() == [2, 0, 1, 0, -2]


@pytest.mark.parametrize("events", [True, False])
@pytest.mark.parametrize("levels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_names_are_the_columns(kind: str, levels: int, events: bool) -> None:
    series = make_book(120, events=events)
    if kind == "paper" and not events:
        with pytest.raises(DataError, match="need order messages"):
            features(series, kind, levels)
        return
    found = features(series, kind, levels)
    names = feature_names(kind, levels, events=events)
    assert found.shape == (120, len(names))
    assert found.dtype == np.float32
    assert len(set(names)) == len(names)
    assert np.isfinite(found).all()
    assert len(scaling_groups(kind, names)) == len(names)


def test_counts_of_the_papers() -> None:
    assert len(feature_names("paper", 10)) == 46
    assert len(feature_names("book", 10)) == 40
    assert len(feature_names("given", 10)) == 144
    assert 60 <= len(feature_names("relative", 10)) <= 80
    assert feature_names("relative", 10)[:2] == ("move", "known")


@pytest.mark.parametrize("kind", KINDS)
def test_no_row_depends_on_later_rows(kind: str) -> None:
    whole, other = make_book(300, seed=1), make_book(300, seed=2)
    mixed = _spliced(whole, other, 200)
    before = features(whole, kind, 3)[:200]
    np.testing.assert_array_equal(before, features(mixed, kind, 3)[:200])
    assert (features(whole, kind, 3)[200:] != features(mixed, kind, 3)[200:]).any()


def test_memory_is_bounded() -> None:
    """A stream that keeps the last rows computes what the whole day gives."""
    whole, other = make_book(400, seed=1), make_book(400, seed=2)
    mixed = _spliced(other, whole, 200)
    after = features(mixed, "relative", 3)[200 + MEMORY :]
    np.testing.assert_allclose(
        features(whole, "relative", 3)[200 + MEMORY :], after, rtol=1e-5, atol=1e-5
    )
    kept = whole.rows(slice(300 - MEMORY, 301))
    np.testing.assert_allclose(
        features(kept, "relative", 3)[-1], features(whole, "relative", 3)[300], atol=1e-5
    )


def test_blocks_leave_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    series = make_book(500)
    whole = features(series, "relative", 3, smoothing=70)
    monkeypatch.setattr("domains.finance.data.features._BLOCK", 37)
    np.testing.assert_allclose(features(series, "relative", 3, smoothing=70), whole, atol=1e-5)


def _spliced(first: BookSeries, second: BookSeries, row: int) -> BookSeries:
    """The first series up to `row`, then the second."""
    early, late = slice(0, row), slice(row, None)

    def join(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.concatenate([a[early], b[late]])

    assert first.events is not None and second.events is not None
    events = Events(*(join(a, vars(second.events)[n]) for n, a in vars(first.events).items()))
    return replace(
        first,
        time=join(first.time, second.time),
        book=join(first.book, second.book),
        events=events,
    )


def test_relative_features_by_loop() -> None:
    series = make_book(120)
    found = dict(
        zip(feature_names("relative", 3), features(series, "relative", 3, 10).T, strict=True)
    )
    mid, row = series.mid, 100
    assert found["move"][row] == pytest.approx(1e4 * (mid[100] / mid[99] - 1), abs=1e-3)
    mean = mid[90:101].mean()
    assert found["known"][row] == pytest.approx(1e4 * (mid[100] - mean) / mean, abs=1e-3)
    assert found["return_20"][row] == pytest.approx(1e4 * (mid[100] / mid[80] - 1), abs=1e-3)
    assert found["spread"][row] == pytest.approx(1e4 * series.spread[100] / mid[100], rel=1e-4)
    distance = 1e4 * (series.bid_price[100, 2] - mid[100]) / mid[100]
    assert found["bid_distance_3"][row] == pytest.approx(distance, rel=1e-4)
    sizes = np.concatenate([series.ask_size, series.bid_size], axis=1)
    unit = sizes[51:101].mean()
    assert found["depth"][row] == pytest.approx(np.log(unit), rel=1e-5)
    assert found["ask_size_2"][row] == pytest.approx(np.log1p(series.ask_size[100, 1] / unit))
    flow = order_flow_imbalance(series)[96:101, 0].sum() / unit
    moved = 1e4 * (mid[51:101] / mid[50:100] - 1)
    micro = 1e4 * (micro_price(series)[100] - mid[100]) / mid[100]
    assert found["micro_price"][row] == pytest.approx(micro, abs=1e-3)
    assert found["volatility"][row] == pytest.approx(np.sqrt(np.mean(np.square(moved))), rel=1e-4)
    compressed = np.sign(flow) * np.log1p(abs(flow))
    assert found["ofi_1_over_5"][row] == pytest.approx(compressed, rel=1e-4)


def test_prices_and_sizes_may_be_in_any_unit() -> None:
    """Doubled prices and tenfold sizes change nothing but the depth."""
    series = make_book(150, events=False)
    other = series.book.copy()
    other[:, 0::2] *= 2
    other[:, 1::2] *= 10
    names = feature_names("relative", 3, events=False)
    kept = [i for i, name in enumerate(names) if name != "depth"]
    np.testing.assert_allclose(
        features(replace(series, book=other), "relative", 3)[:, kept],
        features(series, "relative", 3)[:, kept],
        atol=1e-4,
    )


def test_empty_sides_and_levels_stay_readable() -> None:
    series = make_book(200, events=False)
    series.book[50:60, 0:12:4] = np.nan
    series.book[50:60, 1:12:4] = 0
    series.book[120:, 10] = np.nan
    series.book[120:, 11] = 0
    found = features(series, "relative", 3)
    assert not np.isinf(found).any()
    assert np.isfinite(found[115:120]).all()
    names = feature_names("relative", 3, events=False)
    unknown = {names[i] for i in np.flatnonzero(np.isnan(found[130]))}
    assert unknown == {"bid_distance_3"}


def test_given_columns_and_what_is_missing() -> None:
    series = make_book(30, levels=10)
    with pytest.raises(DataError, match="no columns came with this file"):
        features(series, "given", 10)
    extra = np.random.default_rng(0).normal(size=(30, 104))
    found = features(replace(series, given=extra), "given", 10)
    assert found.shape == (30, 144)
    np.testing.assert_array_equal(found[:, 40:], extra.astype(np.float32))
    with pytest.raises(DataError, match=r"has 10 levels, not 11; use data.levels=10"):
        features(series, "book", 11)
    with pytest.raises(DataError, match="prices are normalised"):
        features(replace(series, normalised=True), "relative", 10)
    with pytest.raises(ValueError, match="expected relative, book, paper or given, got 'x'"):
        features(series, "x", 10)


def test_flows_are_those_a_sampled_series_carries() -> None:
    series = make_book(40)
    assert flows(series).shape == (40, len(flow_names(3, True)))
    carried = np.ones((40, len(flow_names(3, True))))
    np.testing.assert_array_equal(flows(replace(series, flows=carried)), carried)
    assert not np.array_equal(
        features(replace(series, flows=carried), "relative", 3), features(series, "relative", 3)
    )

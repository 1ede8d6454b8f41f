"""Sampling: which rows are kept, that none looks ahead, and that no flow gets lost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from domains.finance.data.features import features
from domains.finance.data.order_flow import flows
from domains.finance.data.sampling import sample
from shared_runtime.errors import DataError
from tests.domains.finance.data.made_books import SECOND, make_book

KINDS = [("event", 7), ("time", 3.7), ("time", 0.2), ("volume", 1500), ("mid", 2)]


def kept_rows(series, sampled) -> list[int]:  # type: ignore[no-untyped-def]
    """Rows of the series behind the sampled ones, from their order ids."""
    where = {int(i): row for row, i in enumerate(series.events.order_id)}
    return [where[int(i)] for i in sampled.events.order_id]


def day(rows: int = 400, seed: int = 0):  # type: ignore[no-untyped-def]
    series = make_book(rows, seed=seed)
    return replace(series, events=replace(series.events, order_id=np.arange(rows)))


@pytest.mark.parametrize(("kind", "every"), KINDS)
def test_flow_between_rows_adds_up(kind: str, every: float) -> None:
    series = day()
    sampled = sample(series, kind, every)
    rows = kept_rows(series, sampled)
    total, previous = flows(series), -1
    assert sampled.flows is not None and len(rows) > 20
    for found, row in zip(sampled.flows, rows, strict=True):
        expected = total[previous + 1 : row + 1].sum(axis=0)
        np.testing.assert_allclose(found, expected, atol=1e-9)
        previous = row
    np.testing.assert_array_equal(sampled.book, series.book[rows])


@pytest.mark.parametrize(("kind", "every"), KINDS)
def test_nothing_is_read_ahead(kind: str, every: float) -> None:
    """Rows kept before a change are the same, with the same features."""
    series, other = day(), day(seed=5)
    book = np.concatenate([series.book[:300], other.book[300:]])
    events = type(series.events)(
        *(
            np.concatenate([a[:300], vars(other.events)[n][300:]])
            for n, a in vars(series.events).items()
        )
    )
    mixed = replace(series, book=book, events=events)
    before, after = (sample(one, kind, every) for one in (series, mixed))
    early = int((before.time < series.time[300]).sum())
    assert early > 10
    for name in ("book", "time", "flows"):
        np.testing.assert_allclose(vars(before)[name][:early], vars(after)[name][:early], atol=1e-9)
    np.testing.assert_allclose(
        features(before, "relative", 3)[:early], features(after, "relative", 3)[:early], atol=1e-5
    )


def test_time_takes_the_last_state_at_or_before_each_point() -> None:
    series = day()
    sampled = sample(series, "time", 2.5)
    assert (sampled.time % int(2.5 * SECOND) == 0).all()
    assert (np.diff(sampled.time) == int(2.5 * SECOND)).all()
    for point, row in zip(sampled.time, kept_rows(series, sampled), strict=True):
        assert series.time[row] <= point
        assert row + 1 == len(series) or series.time[row + 1] > point


def test_events_and_volume_and_mid_keep_the_stated_rows() -> None:
    series = day()
    assert kept_rows(series, sample(series, "event", 7)) == list(range(6, 400, 7))
    executed = np.isin(series.events.type, [4, 5]) * series.events.size
    total, expected = 0.0, []
    for row, size in enumerate(executed):
        if (total + size) // 1500 > total // 1500:
            expected.append(row)
        total += size
    assert kept_rows(series, sample(series, "volume", 1500)) == expected
    last, expected = None, []
    for row, mid in enumerate(series.mid):
        if last is None or abs(mid - last) >= 0.02 - 1e-9:
            expected.append(row)
            last = mid
    assert kept_rows(series, sample(series, "mid", 2)) == expected


def test_every_event_is_the_series_itself() -> None:
    series = day()
    assert sample(series, "event", 1) is series


def test_short_and_unfit_series() -> None:
    series = day(5)
    for kind, every in (("event", 10), ("volume", 1e9), ("time", 1e6)):
        assert len(sample(series, kind, every)) == 0
    with pytest.raises(DataError, match=r"data.sample=volume needs order messages"):
        sample(make_book(5, events=False), "volume", 10)
    with pytest.raises(DataError, match=r"use a larger data.every"):
        sample(day(), "time", 1e-6)
    with pytest.raises(ValueError, match="expected event, time, volume or mid"):
        sample(series, "x", 2)


def test_snapshots_are_sampled_too() -> None:
    sampled = sample(make_book(200, events=False), "time", 5)
    assert sampled.flows is not None and sampled.flows.shape[1] == 3
    assert np.isfinite(features(sampled, "relative", 3)).all()

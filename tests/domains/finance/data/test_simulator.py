"""The simulated market: exact books, every kind of event, the facts of real ones, speed."""

from __future__ import annotations

import csv
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from domains.finance.data.book import BookSeries, EventType
from domains.finance.data.config import DataConfig
from domains.finance.data.samples import FI2010_HORIZONS, write_samples
from domains.finance.data.simulator import Market, simulate_day
from domains.finance.data.splits import split
from domains.finance.data.stylised_facts import autocorrelation, next_move_share, stylised_facts
from domains.finance.data.windows import make_windows
from tests.domains.finance.aapl_hour import aapl_hour


@pytest.fixture(scope="module")
def day() -> list[BookSeries]:
    return simulate_day(Market(), 12_000, 7, halts=[(0.25, 300.0)])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_samples(tmp_path_factory.mktemp("samples"), 0)


def replay(series: BookSeries) -> np.ndarray:
    """Every book from the first one and the messages alone."""
    events = series.events
    assert events is not None
    sides: dict[int, defaultdict[int, float]] = {-1: defaultdict(float), 1: defaultdict(float)}
    ticks = np.rint(np.nan_to_num(series.book[0]) / series.tick).astype(int)
    for place in range(0, len(ticks), 4):
        sides[-1][int(ticks[place])] = series.book[0, place + 1]
        sides[1][int(ticks[place + 2])] = series.book[0, place + 3]
    out = np.zeros_like(series.book)
    price = np.rint(events.price / series.tick).astype(int)
    for row in range(len(series)):
        kind, size, tick = events.type[row], events.size[row], int(price[row])
        levels = sides[int(events.direction[row])]
        if row and kind == EventType.SUBMIT:
            levels[tick] += size
        elif row and kind in (EventType.CANCEL, EventType.DELETE, EventType.EXECUTE):
            assert levels[tick] >= size
            levels[tick] -= size
        for column, sign in ((0, -1), (2, 1)):
            held = sorted((t for t, s in sides[sign].items() if s), reverse=sign > 0)
            for level, t in enumerate(held[: series.levels]):
                out[row, 4 * level + column : 4 * level + column + 2] = t, sides[sign][t]
    out[:, 0::2] *= series.tick
    return out


def test_replaying_the_messages_gives_every_book(day: list[BookSeries]) -> None:
    for stretch in day:
        kept = stretch.rows(slice(0, 3000))
        np.testing.assert_allclose(replay(kept), np.nan_to_num(kept.book), atol=1e-9)


def test_executions_take_the_oldest_order_at_the_best_price(day: list[BookSeries]) -> None:
    one = day[1]
    events = one.events
    assert events is not None
    waiting: dict[tuple[float, int], dict[int, float]] = defaultdict(dict)
    checked = 0
    for row in range(1, len(one)):
        kind, order, size = events.type[row], int(events.order_id[row]), events.size[row]
        side = int(events.direction[row])
        queue = waiting[float(events.price[row]), side]
        if kind == EventType.SUBMIT:
            queue[order] = size
            continue
        if kind == EventType.EXECUTE:
            assert events.price[row] == one.book[row - 1, 2 if side > 0 else 0]
            if order in queue:
                assert order == next(iter(queue))
                checked += 1
        if kind != EventType.EXECUTE_HIDDEN and order in queue:
            queue[order] -= size
            assert queue[order] >= 0
            if kind == EventType.DELETE or not queue[order]:
                assert queue.pop(order) == 0
    assert checked > 300


def test_books_are_never_crossed_and_time_never_runs_back(day: list[BookSeries]) -> None:
    for one in day:
        assert (one.spread > 0).all()
        assert (np.diff(one.time) >= 0).all()
        assert (np.diff(one.ask_price, axis=1)[~np.isnan(one.ask_price[:, 1:])] > 0).all()
        assert ((one.ask_size > 0) == ~np.isnan(one.ask_price)).all()
    assert day[1].time[0] - day[0].time[-1] >= 300 * 10**9
    assert day[0].time[0] >= 34_200 * 10**9 and day[-1].time[-1] <= 57_600 * 10**9


def test_same_seed_gives_the_same_day(day: list[BookSeries]) -> None:
    again = simulate_day(Market(), 12_000, 7, halts=[(0.25, 300.0)])
    other = simulate_day(Market(), 12_000, 8)
    for ours, theirs in zip(day, again, strict=True):
        np.testing.assert_array_equal(ours.book, theirs.book)
        np.testing.assert_array_equal(ours.time, theirs.time)
    assert not np.array_equal(other[0].book[:3000], day[0].book[:3000])


def test_stylised_facts_of_markets_hold() -> None:
    facts = stylised_facts([simulate_day(Market(), 12_000, seed)[0] for seed in range(4)])
    assert facts["spread of 1 or 2 ticks, share"] > 0.8
    assert facts["size at level 1, of the mean"] < facts["size at level 3, of the mean"]
    assert facts["size at level 10, of the mean"] < facts["size at level 3, of the mean"]
    assert -0.3 < facts["autocorrelation of mid changes, lag 1"] < -0.03
    assert abs(facts["autocorrelation of mid changes, lag 10"]) < 0.04
    assert abs(facts["autocorrelation of mid changes, lag 50"]) < 0.03
    assert facts["autocorrelation of trade price changes, lag 1"] < -0.05
    assert facts["autocorrelation of absolute returns, lag 1"] > 0.08
    assert facts["autocorrelation of absolute returns, lag 10"] > 0.01
    assert facts["autocorrelation of trade signs, lag 10"] > 0.1
    assert facts["excess kurtosis of returns"] > 1
    assert 0.55 < facts["next move goes to the heavier side, share"] < 0.75
    for kind in ("submit", "cancel", "delete", "execute", "execute_hidden"):
        assert facts[f"{kind} events, share"] > 0.003


def test_shuffled_books_have_none_of_the_memory(day: list[BookSeries]) -> None:
    """The measures themselves: independent values have no autocorrelation and no signal."""
    rng = np.random.default_rng(0)
    assert abs(autocorrelation(rng.normal(size=20_000), 1)) < 0.03
    assert autocorrelation(np.tile([1.0, -1.0], 500), 1) == pytest.approx(-1, abs=0.01)
    mixed = day[1].rows(rng.permutation(len(day[1])))
    assert abs(next_move_share(mixed, 0.0) - 0.5) < 0.05


def test_facts_of_the_real_hour(heed_data: Path) -> None:
    facts = stylised_facts([aapl_hour(heed_data)])
    assert facts["autocorrelation of mid changes, lag 1"] < -0.1
    assert facts["autocorrelation of absolute returns, lag 1"] > 0.05
    assert facts["next move goes to the heavier side, share"] > 0.5


def test_simulation_is_fast_enough() -> None:
    """A fifth of the 50,000 events a second it is made for, since machines are shared."""
    begin = time.process_time()
    simulate_day(Market(), 20_000, 0)
    assert 20_000 / (time.process_time() - begin) > 10_000


def table(path: Path) -> np.ndarray:
    return np.loadtxt(path, delimiter=",")


def test_lobster_samples_are_pairs_with_a_halt(files: list[Path]) -> None:
    pairs = [path for path in files if path.parent.name == "lobster"]
    assert len(pairs) == 8
    assert sum(path.stat().st_size for path in pairs) < 8e6
    for message, book in zip(pairs[::2], pairs[1::2], strict=True):
        assert message.name.replace("message", "orderbook") == book.name
        events, rows = table(message), table(book)
        assert events.shape == (len(rows), 6) and rows.shape[1] == 40
        assert (np.diff(events[:, 0]) >= 0).all()
        halts = np.flatnonzero(events[:, 1] == 7)
        assert len(halts) == (2 if message.name.startswith("SIMA_2024-03-05") else 0)
        for row in halts:
            np.testing.assert_array_equal(rows[row], rows[row - 1])
        if len(halts):
            assert events[halts, 4].tolist() == [-1, 1]
        empty = rows[:, 0::2][rows[:, 1::2] == 0]
        assert (np.abs(empty) == 9_999_999_999).all()


def test_diffs_rebuild_the_book_of_the_snapshots(files: list[Path]) -> None:
    named = {path.name: path for path in files}
    with named["snapshots.csv"].open() as stream:
        snapshots = {int(row["timestamp"]): row for row in csv.DictReader(stream)}
    times = sorted(snapshots)
    assert len(times) > 4000 and set(np.diff(times)) == {5000}
    sides: dict[str, dict[float, float]] = {"ask": {}, "bid": {}}
    checked, following, seen = 0, 0, set()
    with named["diffs.csv"].open() as stream:
        for row in csv.DictReader(stream):
            update = row["timestamp"], row["side"], row["price"]
            assert update not in seen
            seen.add(update)
            while int(row["timestamp"]) > times[following]:
                expected = snapshots[times[following]]
                for side, best in (("ask", min), ("bid", max)):
                    assert best(sides[side]) == float(expected[f"{side}_price_1"])
                    assert sides[side][best(sides[side])] == float(expected[f"{side}_size_1"])
                following, checked = following + 1, checked + 1
            if float(row["size"]):
                sides[row["side"]][float(row["price"])] = float(row["size"])
            else:
                del sides[row["side"]][float(row["price"])]
    assert checked > 1000


def test_fi2010_samples_have_the_published_layout(files: list[Path]) -> None:
    named = {path.name: path for path in files}
    for name, columns in (("Train", 1800), ("Test", 800)):
        rows = np.loadtxt(named[f"{name}_Dst_NoAuction_DecPre_CF_7.txt"])
        assert rows.shape == (149, columns)
        assert (rows[0] > rows[2]).all() and (rows[0:40:2] >= 0).all()
        assert set(np.unique(rows[144:])) == {1, 2, 3}
        assert np.isfinite(rows).all() and (np.ptp(rows[:40], axis=1) > 0).all()
        assert (np.diff(rows[0:40:4], axis=0) > 0).all()
        assert (np.diff(rows[2:40:4], axis=0) < 0).all()
    assert len(FI2010_HORIZONS) == 5


def test_sample_can_be_learned_but_not_trivially() -> None:
    """A linear rule on the window's own features beats the majority and stays far from perfect."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score

    series = [one for seed in (0, 1) for one in simulate_day(Market(), 6000, seed)]
    config = DataConfig(path=Path("x"), lookback=16, label="fi2010", horizon=10)
    made = make_windows(series, split(series, config), config)
    scaled = {
        name: one.batch(np.arange(len(one)))["x"][:, -1].numpy() for name, one in made.items()
    }
    model = LogisticRegression(max_iter=500, C=0.1).fit(scaled["train"], made["train"].label)
    score = f1_score(made["test"].label, model.predict(scaled["test"]), average="macro")
    assert max(made["test"].shares()) < 0.75
    assert 0.40 < score < 0.8

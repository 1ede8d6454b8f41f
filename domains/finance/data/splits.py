"""Training, validation and test rows, none of which ever reads a row of another part.

A part is a set of stretches of rows. Features, labels and windows are computed inside one stretch
alone: the last training label reads the last training row, and the first validation window starts
at the first validation row. So between the last row at which a part predicts and the first at
which the next one does lie the horizon and the look-back: that gap is the purge. Labels that came
with the data may read rows beyond their stretch; those that cross a cut are dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from domains.finance.data.book import BookSeries
from domains.finance.data.config import DataConfig
from domains.finance.data.labels import reads_back
from shared_runtime.errors import DataError

DAYS_FOR_DAY_SPLIT = 10
EVENTS_PER_GIVEN_ROW = 10
_NANOSECONDS_PER_DAY = 86_400_000_000_000
_FOLD_FILE = re.compile(r"^(train|test)_(?:.*_cf_(\d+))?", re.IGNORECASE)
_PUBLISHED = (7, (7, 8, 9))


@dataclass(frozen=True)
class Stretch:
    """Rows `start` to `stop` of one of the series."""

    series: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Parts:
    """The stretches of each part, in the order of the series."""

    kind: str
    """`time`, `day`, or `files` where the file names say it."""
    train: tuple[Stretch, ...]
    val: tuple[Stretch, ...]
    test: tuple[Stretch, ...]

    def items(self) -> dict[str, tuple[Stretch, ...]]:
        """Return the three parts by name."""
        return {"train": self.train, "val": self.val, "test": self.test}


def take(series: Sequence[BookSeries], stretches: Iterable[Stretch]) -> list[BookSeries]:
    """Return the rows of a part."""
    return [series[s.series].rows(slice(s.start, s.stop)) for s in stretches]


def rows_ahead(config: DataConfig) -> int:
    """Return how many rows after row t its label reads."""
    if config.label == "given":
        return -(-config.horizon // EVENTS_PER_GIVEN_ROW)
    return config.horizon


def least_rows(config: DataConfig) -> int:
    """Return the rows that a stretch needs to hold one window with its label."""
    back = reads_back(config.label, config.smoothing, config.horizon)
    ahead = 0 if config.label == "given" else config.horizon
    return max(config.lookback, back + 1) + ahead


def split(series: Sequence[BookSeries], config: DataConfig) -> Parts:
    """Split sampled series into training, validation and test.

    - `time`: all rows of a day, over its instruments and the stretches between its halts, are put
      in time order and cut once, so no instrument is trained on at a time after another is tested
      that day. Every day is in every part; use `day` for a test on days after all others.
    - `day`: whole days, the same for all instruments: the last ones are tested, those before them
      validate. Data without a day, in time since 1970, are cut at midnight UTC.
    - FI-2010 under `auto`: files named `Test_...` are the test part, the last
      `validation_fraction` of each stretch of the files named `Train_...` validates. Where a
      folder has every fold, training fold 7 and test folds 7 to 9 are taken, as published.

    Raises:
        DataError: the parts overlap, or one is too small for a single window and its label.
    """
    if not series:
        raise DataError(f"{config.path}: no order book to split")
    named = [_FOLD_FILE.match(Path(one.source).name) for one in series]
    if config.split == "auto" and all(named):
        parts = _by_file(series, config)
    else:
        days = {day for one in series for day in _days(one)}
        kind = config.split
        if kind == "auto":
            kind = "day" if len(days) >= DAYS_FOR_DAY_SPLIT else "time"
        parts = _by_day(series, config, sorted(days)) if kind == "day" else _by_time(series, config)
        require_disjoint({name: take(series, part) for name, part in parts.items().items()})
    if config.label == "given":
        parts = _purged(parts, series, rows_ahead(config))
    _require_enough(parts, config)
    return parts


def _purged(parts: Parts, series: Sequence[BookSeries], rows: int) -> Parts:
    """Drop the last rows before each cut: their labels came with the file and read beyond it."""

    def shorter(stretches: Iterable[Stretch]) -> tuple[Stretch, ...]:
        return _stretches(
            (s.series, s.start, s.stop - (rows if s.stop < len(series[s.series]) else 0))
            for s in stretches
        )

    return Parts(parts.kind, shorter(parts.train), shorter(parts.val), parts.test)


def require_disjoint(parts: Mapping[str, Sequence[BookSeries]]) -> None:
    """Refuse parts that hold the same instrument at overlapping times of the same day.

    Args:
        parts: series of each part, such as those a model was trained on and those to score.

    Raises:
        DataError: names the parts, the instrument and the days.
    """
    spans = {name: _spans(part) for name, part in parts.items()}
    for first, second in combinations(spans, 2):
        common = sorted(
            key
            for key, found in spans[first].items()
            if _overlap(found, spans[second].get(key, []))
        )
        if common:
            days = ", ".join(f"{instrument} {day}".strip() for instrument, day in common[:5])
            more = f" and {len(common) - 5} more" if len(common) > 5 else ""
            raise DataError(
                f"{first} and {second} overlap: {days}{more} in both; "
                "remove the copies or move the days to one part"
            )


def spans(part: Sequence[BookSeries]) -> list[list[str | int]]:
    """Return instrument, day, first and last time of each series, as JSON can hold it."""
    return [
        [one.instrument, one.day, int(one.time[0]), int(one.time[-1])] for one in part if len(one)
    ]


def require_unseen(trained: Sequence[Sequence[str | int]], test: Sequence[BookSeries]) -> None:
    """Refuse to test on stretches of time that a model was trained on.

    Args:
        trained: `spans` of the model's training part.
        test: series to test on.

    Raises:
        DataError: names the instrument, the day and the file.
    """
    seen: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for instrument, day, first, last in trained:
        seen.setdefault((str(instrument), str(day)), []).append((int(first), int(last)))
    for one in test:
        span = [(int(one.time[0]), int(one.time[-1]))] if len(one) else []
        if _overlap(seen.get((one.instrument, one.day), []), span):
            raise DataError(
                f"{one.source}: the test part overlaps what the model was trained on, "
                f"{one.instrument} {one.day}; give other days".replace("  ", " ")
            )


def _spans(part: Sequence[BookSeries]) -> dict[tuple[str, str], list[tuple[int, int]]]:
    spans: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for one in part:
        if len(one):
            span = int(one.time[0]), int(one.time[-1])
            spans.setdefault((one.instrument, one.day), []).append(span)
    return spans


def _overlap(ours: list[tuple[int, int]], theirs: list[tuple[int, int]]) -> bool:
    """Say whether two lists of spans share more than an instant."""
    edges = sorted([(*span, 0) for span in ours] + [(*span, 1) for span in theirs])
    last: list[tuple[int, int] | None] = [None, None]
    for start, stop, owner in edges:
        other = last[1 - owner]
        if other is not None and (start < other[1] or (start, stop) == other):
            return True
        mine = last[owner]
        if mine is None or stop > mine[1]:
            last[owner] = (start, stop)
    return False


def _days(one: BookSeries) -> list[str]:
    """Return the days that a series touches."""
    if one.day or not len(one):
        return [one.day] if one.day else []
    first, last = np.array([one.time[0], one.time[-1]]) // _NANOSECONDS_PER_DAY
    return [str(day) for day in np.arange(first, last + 1).astype("datetime64[D]")]


def _by_time(series: Sequence[BookSeries], config: DataConfig) -> Parts:
    shares = (1 - config.validation_fraction - config.test_fraction, 1 - config.test_fraction)
    groups: dict[str, list[int]] = {}
    for number, one in enumerate(series):
        groups.setdefault(one.day, []).append(number)
    cuts: dict[int, tuple[int, int]] = {}
    for numbers in groups.values():
        time = np.concatenate([series[n].time for n in numbers])
        owner = np.repeat(np.arange(len(numbers)), [len(series[n]) for n in numbers])
        owner = owner[np.argsort(time, kind="stable")]
        first, second = (
            np.bincount(owner[: _share(share, len(time))], minlength=len(numbers))
            for share in shares
        )
        cuts |= {n: (int(first[i]), int(second[i])) for i, n in enumerate(numbers)}
    return Parts(
        "time",
        _stretches((n, 0, cuts[n][0]) for n in range(len(series))),
        _stretches((n, *cuts[n]) for n in range(len(series))),
        _stretches((n, cuts[n][1], len(one)) for n, one in enumerate(series)),
    )


def _share(share: float, total: int) -> int:
    """Return the whole rows of a share; 0.7 of 10 is 7 however 0.7 came about."""
    return int(share * total + 1e-6)


def _by_day(series: Sequence[BookSeries], config: DataConfig, days: list[str]) -> Parts:
    if len(days) < 3:
        raise DataError(
            f"{config.path}: data.split=day needs at least 3 days, there "
            f"{'is' if len(days) == 1 else 'are'} {len(days)}; use data.split=time or more days"
        )
    test = max(1, round(config.test_fraction * len(days)))
    val = max(1, round(config.validation_fraction * len(days)))
    if test + val >= len(days):
        raise DataError(
            f"{config.path}: {val} days for validation and {test} for test leave none of "
            f"{len(days)} to train; lower data.validation_fraction or data.test_fraction"
        )
    part_of = {
        day: min(2, (i >= len(days) - test - val) + (i >= len(days) - test))
        for i, day in enumerate(days)
    }
    found: tuple[list[tuple[int, int, int]], ...] = ([], [], [])
    for number, one in enumerate(series):
        names = _days(one)
        edges = [0, len(one)]
        if not one.day:
            midnights = np.array(names[1:], "datetime64[D]").astype(np.int64)
            edges[1:1] = np.searchsorted(one.time, midnights * _NANOSECONDS_PER_DAY).tolist()
        for day, start, stop in zip(names, edges[:-1], edges[1:], strict=True):
            found[part_of[day]].append((number, start, stop))
    return Parts("day", *(_stretches(part) for part in found))


def _by_file(series: Sequence[BookSeries], config: DataConfig) -> Parts:
    files: dict[str, dict[int | None, list[int]]] = {"train": {}, "test": {}}
    for number, one in enumerate(series):
        match = _FOLD_FILE.match(Path(one.source).name)
        assert match is not None
        fold = None if match[2] is None else int(match[2])
        files[match[1].lower()].setdefault(fold, []).append(number)
    train, test = _folds(files, config)
    cuts = {n: _share(1 - config.validation_fraction, len(series[n])) for n in train}
    return Parts(
        "files",
        _stretches((n, 0, cuts[n]) for n in train),
        _stretches((n, cuts[n], len(series[n])) for n in train),
        _stretches((n, 0, len(series[n])) for n in test),
    )


def _folds(
    files: Mapping[str, Mapping[int | None, list[int]]], config: DataConfig
) -> tuple[list[int], list[int]]:
    """Return the series to train on and to test.

    Folds are anchored: training fold i holds days 1 to i, test fold i day i + 1.
    """
    train, test = files["train"], files["test"]
    if not train or not test:
        missing = "Test" if train else "Train"
        raise DataError(
            f"{config.path}: no {missing}_... file, so the file names do not say what to test; "
            "add it or use data.split=time"
        )
    published, tested = _PUBLISHED
    if len(train) > 1 and published in train and set(tested) <= set(test):
        return train[published], [n for number in tested for n in test[number]]
    if len(train) > 1:
        names = ", ".join(f"CF_{fold}" for fold in sorted(train, key=str))
        raise DataError(
            f"{config.path}: training folds {names} hold the same days; keep one of them, with "
            "the test folds from its number on"
        )
    fold = next(iter(train))
    seen = sorted(number for number in test if number is not None and number < (fold or 0))
    if seen:
        names = ", ".join(f"Test CF_{number} (day {number + 1})" for number in seen)
        raise DataError(
            f"{config.path}: {names} overlap with Train CF_{fold}, which holds days 1 to {fold}; "
            "remove these test folds"
        )
    return train[fold], [n for found in test.values() for n in found]


def _stretches(found: Iterable[tuple[int, int, int]]) -> tuple[Stretch, ...]:
    return tuple(Stretch(*one) for one in found if one[2] > one[1])


def _require_enough(parts: Parts, config: DataConfig) -> None:
    least = least_rows(config)
    for name, part in parts.items().items():
        longest = max((len(stretch) for stretch in part), default=0)
        if longest < least:
            raise DataError(
                f"{config.path}: the {name} part needs an unbroken stretch of {least} rows for "
                f"look-back {config.lookback} and horizon {config.horizon} of label "
                f"{config.label}, its longest has {longest}; use more data, or a smaller "
                "data.lookback, data.horizon or data.every"
            )

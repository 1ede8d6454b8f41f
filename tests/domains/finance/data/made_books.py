"""Small made-up books for the tests of what works on them."""

from __future__ import annotations

import numpy as np

from domains.finance.data.book import BookSeries, Events

SECOND = 1_000_000_000


def make_book(
    rows: int,
    *,
    levels: int = 3,
    instrument: str = "AAA",
    day: str = "2024-03-04",
    start: int = 34_200 * SECOND,
    events: bool = True,
    seed: int = 0,
    source: str = "book.csv",
) -> BookSeries:
    """Return a book whose mid wanders by half ticks, one event a second."""
    rng = np.random.default_rng(seed)
    bid = 10_000 + np.cumsum(rng.integers(-1, 2, rows))
    spread = rng.integers(1, 4, rows)
    book = np.empty((rows, 4 * levels))
    for level in range(levels):
        book[:, 4 * level] = (bid + spread + level * rng.integers(1, 3, rows)) / 100
        book[:, 4 * level + 2] = (bid - level * rng.integers(1, 3, rows)) / 100
    book[:, 1::2] = rng.integers(1, 9, (rows, 2 * levels)) * 100
    book = np.round(book, 2)
    messages = Events(
        rng.choice(np.array([1, 2, 3, 4, 5], np.int8), rows),
        rng.integers(1, 10_000, rows),
        rng.integers(1, 5, rows) * 100.0,
        np.round((bid + rng.integers(-3, 4, rows)) / 100, 2),
        rng.choice(np.array([-1, 1], np.int8), rows),
    )
    time = start + np.arange(rows) * SECOND + rng.integers(0, SECOND // 2, rows)
    return BookSeries(instrument, day, time, book, source, events=messages if events else None)

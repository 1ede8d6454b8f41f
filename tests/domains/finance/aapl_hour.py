"""The real hour of Apple's book, as the packed arrays beside the raw files hold it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from domains.finance.data.book import BookSeries, Events


def aapl_hour(data: Path) -> BookSeries:
    """Return the hour; skip the test where it is not there."""
    found = sorted((data / "finance" / "lobster_aapl_1h").glob("*.npz"))
    if not found:
        pytest.skip(f"no packed AAPL hour under {data}")
    with np.load(found[0]) as packed:
        book = packed["book"].astype(np.float64)
        book[:, 0::2] /= 10_000
        events = Events(
            packed["type"],
            np.zeros(len(book), np.int64),
            packed["size"].astype(np.float64),
            packed["price"] / 10_000,
            packed["side"],
        )
        time = np.rint(packed["time"] * 1e9).astype(np.int64)
    return BookSeries("AAPL", "2012-06-21", time, book, found[0].name, events=events)

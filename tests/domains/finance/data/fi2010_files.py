"""Synthetic FI-2010 files of the exact layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def walk(columns: int, price: float, seed: int, tick: float = 0.01) -> np.ndarray:
    """Return rows 1 to 40 of one stock and day: a ten-level book moving by ticks, `[40, N]`."""
    rng = np.random.default_rng(seed)
    steps = rng.choice([-1, 0, 0, 0, 0, 0, 0, 0, 1], size=columns)
    bid = np.round(price / tick) + np.cumsum(steps)
    spread = rng.choice([1, 1, 1, 2], size=columns)
    held = np.cumsum(rng.random(columns) < 0.2)
    gaps = np.cumsum(rng.choice([1, 1, 2, 3], size=(9, columns)), axis=0)[:, held - held[0]]
    book = np.empty((40, columns))
    book[0], book[2] = bid + spread, bid
    book[4::4], book[6::4] = book[0] + gaps, bid - gaps
    book[0::2] *= tick
    book[1::2] = rng.integers(1, 5000, size=(20, columns))
    return book


def scaled(book: np.ndarray, scaling: str) -> np.ndarray:
    """Return prices and sizes `[40, N]` in one of the three scalings."""
    if scaling == "DecPre":
        out = book.copy()
        out[0::2] /= 100
        out[1::2] /= 1e5
        return out
    if scaling == "MinMax":
        low, high = book.min(axis=1, keepdims=True), book.max(axis=1, keepdims=True)
        return (book - low) / (high - low)
    return (book - book.mean(axis=1, keepdims=True)) / book.std(axis=1, keepdims=True)


def write_fi2010(
    path: Path,
    parts: list[np.ndarray],
    scaling: str = "ZScore",
    codes: np.ndarray | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Write books `[40, N]` one after the other; return the 149 rows as written."""
    rng = np.random.default_rng(seed)
    book = scaled(np.concatenate(parts, axis=1), scaling)
    columns = book.shape[1]
    given = rng.normal(size=(104, columns))
    labels = rng.integers(1, 4, size=(5, columns)) if codes is None else codes
    rows = np.concatenate([book, given, labels])
    np.savetxt(path, rows, fmt="%16.7e", delimiter="")
    return np.loadtxt(path)

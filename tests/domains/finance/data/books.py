"""Small books and messages for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from domains.finance.data.lobster_csv import EMPTY, Messages
from domains.finance.data.lobster_writing import write_pair

START = 34_200 * 10**9


def order_flow(
    count: int, seed: int = 0, levels: int = 3, crosses: bool = True
) -> tuple[Messages, np.ndarray]:
    """Return messages of a small market and the book rows after them, kept the slow, plain way.

    A dictionary of single orders is the book; every level is summed anew at each row.
    """
    rng = np.random.default_rng(seed)
    orders: dict[int, list[int]] = {}
    rows, books = [], []
    time = START
    for number in range(count):
        time += int(rng.integers(0, 2 * 10**7))
        best_bid = max((p for p, _, d in orders.values() if d > 0), default=999_000)
        best_ask = min((p for p, _, d in orders.values() if d < 0), default=1_001_000)
        kind = int(rng.choice([1, 1, 1, 2, 3, 4, 5, 6])) if orders else 1
        if kind == 6 and not crosses:
            kind = 5
        if kind == 1:
            side = int(rng.choice([-1, 1]))
            edge = best_bid + 100 if side < 0 else best_ask - 100
            price = edge - side * 100 * int(rng.integers(0, 8))
            order, size = number + 1000, int(rng.integers(1, 50)) * 10
            orders[order] = [price, size, side]
        elif kind in (2, 3, 4):
            order = int(rng.choice(list(orders)))
            if kind == 4:
                side = orders[order][2]
                best = best_bid if side > 0 else best_ask
                order = min(o for o, (p, _, d) in orders.items() if p == best and d == side)
            price, held, side = orders[order]
            if kind == 2 and held < 2:
                kind = 3
            size = held if kind == 3 else int(rng.integers(1, held + (kind == 4)))
            orders[order][1] -= size
            if not orders[order][1]:
                del orders[order]
        else:
            order, size, price, side = 0, 100, (best_bid + best_ask) // 2, 1
        rows.append((time, kind, order, size, price, side))
        books.append(_row(orders, levels))
    columns = np.array(rows, dtype=np.int64).T
    return Messages(*columns), np.array(books, dtype=np.int64)


def _row(orders: dict[int, list[int]], levels: int) -> list[int]:
    row = []
    sides = []
    for side, empty in ((-1, EMPTY), (1, -EMPTY)):
        sizes: dict[int, int] = {}
        for price, size, direction in orders.values():
            if direction == side:
                sizes[price] = sizes.get(price, 0) + size
        best = sorted(sizes.items(), reverse=side > 0)[:levels]
        sides.append(best + [(empty, 0)] * (levels - len(best)))
    for (ask, ask_size), (bid, bid_size) in zip(*sides, strict=True):
        row += [ask, ask_size, bid, bid_size]
    return row


def write_flow(
    folder: Path, count: int = 60, seed: int = 0, levels: int = 3, day: str = "2024-03-01"
) -> tuple[Path, Path]:
    """Write messages and book rows as a pair of files."""
    messages, books = order_flow(count, seed, levels)
    return write_pair(messages, books, folder, f"TEST_{day}_34200000_57600000")

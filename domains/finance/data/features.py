"""What a model reads of each row: float32 `[N, F]`, from that row and rows before it alone."""

from __future__ import annotations

import numpy as np

from domains.finance.data.blocks import in_blocks
from domains.finance.data.book import BookSeries
from domains.finance.data.order_flow import (
    EVENT_FLOWS,
    FLOW_LEVELS,
    ORDER_FEATURES,
    flow_names,
    flows,
    order_features,
)
from shared_runtime.errors import DataError

BASIS_POINTS = 1e4
RETURN_ROWS = (2, 5, 10, 20, 50)
FLOW_ROWS = (5, 10, 20, 50)
TRADE_ROWS = (10, 50)
IMBALANCE_LEVELS = (1, 2, 3, 5, 10)
MEMORY = 50
"""Rows before a row that `relative` features read, where `smoothing` is not more."""
_FARTHEST = 1000.0
"""Basis points at which distances are cut: stub quotes lie anywhere."""
_BLOCK = 4096
_BOOK = ("ask_price", "ask_size", "bid_price", "bid_size")


def feature_names(
    kind: str, levels: int, *, events: bool = True, given: int = 104
) -> tuple[str, ...]:
    """Return the name of each column of `features`.

    Args:
        kind: `relative`, `book`, `paper` or `given`.
        levels: price levels of each side.
        events: whether the series have order messages; only `relative` works without as well.
        given: columns that came with the file, of `given`.
    """
    book = tuple(f"{name}_{level}" for level in range(1, levels + 1) for name in _BOOK)
    if kind == "book":
        return book
    if kind == "paper":
        return book + tuple(f"order_{name}" for name in ORDER_FEATURES)
    if kind == "given":
        return book + tuple(f"given_{number}" for number in range(1, given + 1))
    if kind != "relative":
        raise ValueError(f"features: expected relative, book, paper or given, got {kind!r}")
    sides = [(side, level) for side in ("ask", "bid") for level in range(1, levels + 1)]
    names = [
        "move",
        "known",
        *(f"return_{rows}" for rows in RETURN_ROWS),
        "spread",
        *(f"{side}_distance_{level}" for side, level in sides if level > 1),
        *(f"{side}_size_{level}" for side, level in sides),
        *(f"imbalance_{level}" for level in _imbalance_levels(levels)),
        "micro_price",
        "depth",
        *(f"ofi_{level}" for level in range(1, min(levels, FLOW_LEVELS) + 1)),
        *(f"ofi_1_over_{rows}" for rows in FLOW_ROWS),
        *(f"ofi_all_over_{rows}" for rows in FLOW_ROWS),
        "volatility",
        "interval",
        f"interval_over_{MEMORY}",
    ]
    if events:
        names += [*EVENT_FLOWS, *(f"trade_over_{rows}" for rows in TRADE_ROWS), "event_price"]
    return tuple(names)


def scaling_groups(kind: str, names: tuple[str, ...]) -> np.ndarray:
    """Return int64 `[F]`: columns of the same number share one mean and one deviation.

    All prices of `book` and `paper` share theirs, and so do all sizes, which keeps their distances;
    any other column has its own.
    """
    own = np.arange(len(names)) + 2
    if kind == "relative":
        return own - 2
    price = [name.startswith(("ask_price", "bid_price", "order_price")) for name in names]
    size = [name.startswith(("ask_size", "bid_size", "order_size")) for name in names]
    return np.where(price, 0, np.where(size, 1, own))


def features(series: BookSeries, kind: str, levels: int, smoothing: int = 10) -> np.ndarray:
    """Return the features of one series, float32 `[N, F]`, as `feature_names` lists them.

    - `book`: price and size of every level. `paper`: those and the six order features of TLOB.
      `given`: those and the columns that came with an FI-2010 file.
    - `relative`: nothing in it depends on the level of the price or the unit of the sizes. Moves,
      returns and distances from the mid in basis points, the part of the `tlob` label that is
      already known, sizes against the mean size near the best price over the last 50 rows,
      imbalances, the micro-price against the mid, order flow against that mean size with its sums,
      volatility, time, and, where there are messages, trades, submissions and cancellations. Sizes
      and flows are compressed by a logarithm, with their sign.

    Row i reads rows i - max(50, smoothing) to i. Before a row has that many, it makes do with
    those there are. NaN stands for what an empty side leaves unknown.

    Args:
        series: one series; sampled ones carry the flow between their rows.
        kind: which features.
        levels: price levels of each side, at most those of the series.
        smoothing: k of the `tlob` label, for its known part.

    Raises:
        DataError: the series lacks the levels, messages or given columns, or its prices are
            normalised and `relative` was asked for.
    """
    if levels > series.levels:
        raise DataError(
            f"{series.source}: the book has {series.levels} levels, not {levels}; "
            f"use data.levels={series.levels}"
        )
    if kind == "relative":
        return _relative(series, levels, smoothing)
    book = series.book[:, : 4 * levels]
    if kind == "book":
        return book.astype(np.float32)
    if kind == "paper":
        return _paper(series, levels)
    if kind != "given":
        raise ValueError(f"features: expected relative, book, paper or given, got {kind!r}")
    if series.given is None:
        raise DataError(
            f"{series.source}: no columns came with this file; data.features=given is for FI-2010"
        )
    return np.concatenate([book, series.given], axis=1, dtype=np.float32)


def _paper(series: BookSeries, levels: int) -> np.ndarray:
    """Return the book and the order features, which read the row before."""
    width = 4 * levels
    out = np.empty((len(series), width + len(ORDER_FEATURES)), np.float32)

    def fill(start: int, stop: int) -> None:
        first = max(0, start - 1)
        block = series.rows(slice(first, stop))
        out[start:stop, :width] = block.book[start - first :, :width]
        out[start:stop, width:] = order_features(block)[start - first :]

    in_blocks(fill, len(series), _BLOCK)
    return out


def _imbalance_levels(levels: int) -> list[int]:
    return [level for level in IMBALANCE_LEVELS if level <= levels]


def _relative(series: BookSeries, levels: int, smoothing: int) -> np.ndarray:
    """Work in blocks that stay in the processor's cache, each with the rows it looks back on."""
    if series.normalised:
        raise DataError(
            f"{series.source}: prices are normalised, so nothing is relative to the mid; "
            "use data.features=given or book"
        )
    names = feature_names("relative", levels, events="trade" in _flow_columns(series))
    memory = max(MEMORY, smoothing)
    out = np.empty((len(series), len(names)), np.float32)

    def fill(start: int, stop: int) -> None:
        first = max(0, start - memory)
        block = _relative_block(series.rows(slice(first, stop)), levels, smoothing)
        out[start:stop] = block[:, start - first :].T

    in_blocks(fill, len(series), _BLOCK)
    return out


def _flow_columns(series: BookSeries) -> tuple[str, ...]:
    if series.flows is None:
        return flow_names(series.levels, series.events is not None)
    with_events = series.flows.shape[1] > min(series.levels, FLOW_LEVELS)
    return flow_names(series.levels, with_events)


def _relative_block(series: BookSeries, levels: int, smoothing: int) -> np.ndarray:
    """Return the features of a few thousand rows, float64 `[F, N]`."""
    columns = np.ascontiguousarray(series.book[:, : 4 * levels].T)
    ask, ask_size, bid, bid_size = (columns[i::4] for i in range(4))
    mid = (ask[0] + bid[0]) / 2
    to_bps = BASIS_POINTS / mid
    moved = _relative_move(mid, 1)
    flow = np.ascontiguousarray(flows(series).T)
    flow_levels = min(series.levels, FLOW_LEVELS)
    used = min(levels, flow_levels)
    unit = _mean_size(ask_size[:used] + bid_size[:used])
    ofi = flow[:used]
    ofi_all = ofi.sum(axis=0, keepdims=True)
    bid_total, ask_total = np.cumsum(bid_size, axis=0), np.cumsum(ask_size, axis=0)
    chosen = np.array(_imbalance_levels(levels)) - 1
    total = (bid_total + ask_total)[chosen]
    imbalances = (bid_total - ask_total)[chosen] / np.where(total > 0, total, 1.0)
    seconds = (series.time - series.time[:1]) / 1e9
    spread = (ask[0] - bid[0]) * to_bps
    found = [
        moved[None],
        _known(mid, smoothing)[None],
        *(_relative_move(mid, rows)[None] for rows in RETURN_ROWS),
        np.minimum(spread, _FARTHEST)[None],
        np.minimum((ask[1:] - mid) * to_bps, _FARTHEST),
        np.maximum((bid[1:] - mid) * to_bps, -_FARTHEST),
        np.log1p(ask_size / unit),
        np.log1p(bid_size / unit),
        imbalances,
        (imbalances[0] * spread / 2)[None],
        np.log(unit)[None],
        _compress(ofi / unit),
        *(_compress(_sum_over(ofi[:1], rows) / unit) for rows in FLOW_ROWS),
        *(_compress(_sum_over(ofi_all, rows) / unit) for rows in FLOW_ROWS),
        np.sqrt(np.maximum(_sum_over(np.nan_to_num(moved[None]) ** 2, MEMORY), 0) / MEMORY),
        np.log1p(1e6 * _elapsed(seconds, 1))[None],
        np.log1p(1e6 * _elapsed(seconds, MEMORY))[None],
    ]
    if len(flow) > flow_levels:
        of_events = flow[flow_levels:]
        found += [
            _compress(of_events / unit),
            *(_compress(_sum_over(of_events[:1], rows) / unit) for rows in TRADE_ROWS),
            _event_price(series, mid)[None],
        ]
    return np.concatenate(found)


def _lagged(values: np.ndarray, rows: int) -> np.ndarray:
    """Return the values of `rows` rows earlier, or those of the first row."""
    rows = min(rows, len(values))
    return np.concatenate([np.repeat(values[:1], rows), values[: len(values) - rows]])


def _relative_move(mid: np.ndarray, rows: int) -> np.ndarray:
    earlier = _lagged(mid, rows)
    return BASIS_POINTS * (mid - earlier) / earlier


def _elapsed(seconds: np.ndarray, rows: int) -> np.ndarray:
    return np.maximum(seconds - _lagged(seconds, rows), 0.0)


def _sum_over(values: np.ndarray, rows: int) -> np.ndarray:
    """Return sums over the last `rows` rows along the last axis, fewer at the start."""
    total = np.cumsum(values, axis=-1)
    out = total.copy()
    out[..., rows:] -= total[..., :-rows]
    return out


def _mean_size(sizes: np.ndarray) -> np.ndarray:
    """Return the mean size of one level of one side over the last rows; 1 if all are empty."""
    rows = np.minimum(np.arange(1, sizes.shape[1] + 1), MEMORY)
    mean = _sum_over(sizes.sum(axis=0)[None], MEMORY)[0] / (2 * len(sizes) * rows)
    return np.where(mean > 0, mean, 1.0)


def _known(mid: np.ndarray, smoothing: int) -> np.ndarray:
    """Return the known part of the `tlob` label in basis points, of the rows that have a mid."""
    seen = np.isfinite(mid)
    start = mid[seen.argmax()] if len(mid) else 0.0
    distance = np.where(seen, mid - start, 0.0)
    count = _sum_over(seen[None].astype(np.float64), smoothing + 1)[0]
    mean = start + _sum_over(distance[None], smoothing + 1)[0] / np.maximum(count, 1)
    return BASIS_POINTS * (mid - mean) / mean


def _compress(values: np.ndarray) -> np.ndarray:
    return np.copysign(np.log1p(np.abs(values)), values)


def _event_price(series: BookSeries, mid: np.ndarray) -> np.ndarray:
    """Return how far above the mid before it the event was priced, in basis points."""
    if series.events is None:
        return np.zeros(len(series))
    before = _lagged(mid, 1)
    distance = BASIS_POINTS * (series.events.price - before) / before
    return np.clip(distance, -_FARTHEST, _FARTHEST)

"""What the book and its messages say about who is pressing: flows, imbalances, the micro-price.

Flows are positive where they press the price up. Each belongs to the step from the row before to
its own row, so flows of several events add up to the flow between the rows that are kept.
"""

from __future__ import annotations

import numpy as np

from domains.finance.data.book import BookSeries, EventType
from shared_runtime.errors import DataError

FLOW_LEVELS = 5
EVENT_FLOWS = ("trade", "hidden", "volume", "submit", "cancel")
ORDER_FEATURES = ("interval", "type", "size", "price", "direction", "depth")
_ORDER_CODES = np.array([3, 0, 1, 1, 2, 2, 2, 3])
"""By event type: 0 submission, 1 cancellation in part or whole, 2 execution, 3 anything else."""


def order_flow_imbalance(series: BookSeries, levels: int = 1) -> np.ndarray:
    """Return the order-flow imbalance of each level, float64 `[N, levels]`.

    Cont, Kukanov and Stoikov (2014), equation 3; at deeper levels as Xu, Gould and Howison (2019)
    extend it. A bid that rises adds its size, one that falls takes away the size it had, one
    that stays adds the difference; asks count the other way round. An empty level is infinitely
    far away. The first row has no row before it and gets 0.
    """
    out = np.zeros((len(series), levels))
    if len(series) > 1:
        out[1:] = _level_flow(_columns(series, levels)).T
    return out


def _columns(series: BookSeries, levels: int) -> np.ndarray:
    """Return `[4, levels, N]`: ask price, ask size, bid price, bid size; empty is far away."""
    width = 4 * levels
    columns = series.book[:, :width].T.reshape(levels, 4, -1).swapaxes(0, 1).copy()
    for price, far in ((0, np.inf), (2, -np.inf)):
        columns[price][np.isnan(columns[price])] = far
    return columns


def _level_flow(columns: np.ndarray) -> np.ndarray:
    """Return `[levels, N - 1]`."""
    ask, ask_size, bid, bid_size = columns
    bought = np.where(bid[:, 1:] >= bid[:, :-1], bid_size[:, 1:], 0.0)
    bought -= np.where(bid[:, 1:] <= bid[:, :-1], bid_size[:, :-1], 0.0)
    bought -= np.where(ask[:, 1:] <= ask[:, :-1], ask_size[:, 1:], 0.0)
    bought += np.where(ask[:, 1:] >= ask[:, :-1], ask_size[:, :-1], 0.0)
    return bought


def micro_price(series: BookSeries) -> np.ndarray:
    """Return the mid weighted by the sizes of the other side, float64 `[N]`.

    It lies nearer to the side with less size, which is the one that a trade empties first.
    """
    ask, ask_size, bid, bid_size = series.book[:, :4].T
    total = ask_size + bid_size
    weight = np.divide(bid_size, total, out=np.full(len(series), 0.5), where=total > 0)
    return bid + (ask - bid) * weight


def imbalance(series: BookSeries, levels: int = 1) -> np.ndarray:
    """Return (bid size - ask size) / (bid size + ask size) of the first `levels`, float64 `[N]`.

    Between -1 and 1; 0 where both sides are empty.
    """
    width = 4 * levels
    bid = series.book[:, 3:width:4].sum(axis=1)
    ask = series.book[:, 1:width:4].sum(axis=1)
    total = bid + ask
    return np.divide(bid - ask, total, out=np.zeros(len(series)), where=total > 0)


def event_flows(series: BookSeries) -> np.ndarray:
    """Return the flows of the messages, float64 `[N, 5]` as `EVENT_FLOWS` names them.

    Signed size of visible and of hidden executions (a buyer started them: positive), size of both
    without sign, signed size of submissions at the best price or better, and signed size of
    cancellations there (a bid that goes: negative).
    """
    events = series.events
    if events is None:
        raise DataError(f"{series.source}: snapshots have no order messages")
    size, kind = events.size, events.type
    side = events.direction.astype(np.float64)
    best = _at_best(series)
    visible, hidden = kind == EventType.EXECUTE, kind == EventType.EXECUTE_HIDDEN
    cancelled = (kind == EventType.CANCEL) | (kind == EventType.DELETE)
    flows = np.zeros((len(series), len(EVENT_FLOWS)))
    flows[:, 0] = -side * size * visible
    flows[:, 1] = -side * size * hidden
    flows[:, 2] = size * (visible | hidden)
    flows[:, 3] = side * size * ((kind == EventType.SUBMIT) & best)
    flows[:, 4] = -side * size * (cancelled & best)
    return flows


def _before(values: np.ndarray) -> np.ndarray:
    """Return each row's value before its event; the first row has its own."""
    return np.concatenate([values[:1], values[:-1]])


def _at_best(series: BookSeries) -> np.ndarray:
    """Say which orders were priced at the best of their own side before the event, or better."""
    return order_depth(series) < 0.5


def order_depth(series: BookSeries) -> np.ndarray:
    """Return how many ticks behind the best of its own side each order lies, float64 `[N]`.

    The best is that before the event; negative inside the spread; 0 where that side was empty.
    """
    events = series.events
    if events is None:
        raise DataError(f"{series.source}: snapshots have no order messages")
    buys = events.direction > 0
    best = np.where(buys, _before(series.book[:, 2]), _before(series.book[:, 0]))
    depth = np.rint(np.where(buys, best - events.price, events.price - best) / series.tick)
    depth[~np.isfinite(depth)] = 0.0
    return depth


def order_features(series: BookSeries) -> np.ndarray:
    """Return the six order features of TLOB, float64 `[N, 6]` as `ORDER_FEATURES` names them.

    Seconds since the row before; type (0 submission, 1 cancellation, 2 execution, 3 other); size;
    price; direction of the pressure, that is of the order, and for an execution of the one who
    started it; depth in ticks (`order_depth`).

    What the published preparation does differently: it drops partial cancellations and hidden
    executions together with the book rows behind them, so that its books change without a message
    and its intervals and horizons skip events, and it removes the first row of each day. Here
    every message is kept: a partial cancellation counts as a cancellation, a hidden execution as
    an execution, and the first row measures its depth from its own book.
    """
    events = series.events
    if events is None:
        raise DataError(
            f"{series.source}: the six order features need order messages, which snapshots have "
            "not; use data.features=relative or book"
        )
    code = _ORDER_CODES[np.clip(events.type, 0, 7)]
    return np.column_stack(
        [
            np.diff(series.time, prepend=series.time[:1]) / 1e9,
            code,
            events.size,
            events.price,
            np.where(code == 2, -1, 1) * events.direction,
            order_depth(series),
        ]
    )


def flow_names(levels: int, events: bool) -> tuple[str, ...]:
    """Return the columns of `flows`."""
    imbalances = tuple(f"ofi_{level}" for level in range(1, min(levels, FLOW_LEVELS) + 1))
    return imbalances + (EVENT_FLOWS if events else ())


def flows(series: BookSeries) -> np.ndarray:
    """Return every flow between a row and the one before, float64 `[N, K]` as `flow_names` says.

    Those that the series carries, where it was sampled.
    """
    if series.flows is not None:
        return series.flows
    found = order_flow_imbalance(series, min(series.levels, FLOW_LEVELS))
    if series.events is None:
        return found
    return np.column_stack([found, event_flows(series)])

"""The one form of order book data that everything after the readers works on."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np


class EventType(IntEnum):
    """What an order message did; the numbers are LOBSTER's."""

    SUBMIT = 1
    CANCEL = 2
    DELETE = 3
    EXECUTE = 4
    EXECUTE_HIDDEN = 5
    CROSS = 6
    HALT = 7


@dataclass(frozen=True)
class Events:
    """The order message behind each row of a book, one array per column.

    `direction` is that of the limit order (1 buy, -1 sell), so an execution against a sell order,
    -1, was started by a buyer.
    """

    type: np.ndarray
    """int8 `[N]`, of `EventType`."""
    order_id: np.ndarray
    """int64 `[N]`; 0 where unknown."""
    size: np.ndarray
    """float64 `[N]`."""
    price: np.ndarray
    """float64 `[N]`, in the unit of the book's prices."""
    direction: np.ndarray
    """int8 `[N]`."""

    def rows(self, chosen: np.ndarray | slice) -> Events:
        """Return the events at `chosen` rows."""
        return Events(
            self.type[chosen],
            self.order_id[chosen],
            self.size[chosen],
            self.price[chosen],
            self.direction[chosen],
        )


@dataclass(frozen=True)
class BookSeries:
    """An unbroken stretch of one book within one day: row i is the state after event i.

    Readers start a new series at each day, instrument, halt and gap, so nothing that works on one
    series (windows, labels, returns) can cross them.

    Attributes:
        instrument: Ticker or symbol.
        day: ISO date, empty where the file does not say.
        time: int64 `[N]`, nanoseconds after midnight of `day`, or since 1970 where `day` is empty.
        book: float64 `[N, 4 L]`, best level first: ask price, ask size, bid price, bid size of each
            level. Empty levels have price NaN and size 0.
        source: File, for messages.
        first_row: Row of the file that row 0 was, counted from 1.
        tick: Smallest price step.
        events: The messages; None where the data are snapshots only.
        given: float64 `[N, K]`, features that came with the file (FI-2010's 104); None elsewhere.
        given_labels: int8 `[N, H]`, classes that came with the file (0 up, 1 stationary, 2 down),
            one column for each of `given_horizons`; None elsewhere.
        given_horizons: Horizons of `given_labels`, in the file's own count of events.
        normalised: Whether prices and sizes are not in their own units (FI-2010's z-score and
            min-max files), so that mid, spread and money mean nothing.
        flows: float64 `[N, K]`, columns of `order_flow.flow_names`: order flow since the row
            before, summed over the events in between. None where every event is a row.
    """

    instrument: str
    day: str
    time: np.ndarray
    book: np.ndarray
    source: str
    first_row: int = 1
    tick: float = 0.01
    events: Events | None = None
    given: np.ndarray | None = None
    given_labels: np.ndarray | None = None
    given_horizons: tuple[int, ...] = field(default=())
    normalised: bool = False
    flows: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.book)

    @property
    def levels(self) -> int:
        """Number of price levels of each side."""
        return self.book.shape[1] // 4

    @property
    def ask_price(self) -> np.ndarray:
        """Float64 `[N, L]`."""
        return self.book[:, 0::4]

    @property
    def ask_size(self) -> np.ndarray:
        """Float64 `[N, L]`."""
        return self.book[:, 1::4]

    @property
    def bid_price(self) -> np.ndarray:
        """Float64 `[N, L]`."""
        return self.book[:, 2::4]

    @property
    def bid_size(self) -> np.ndarray:
        """Float64 `[N, L]`."""
        return self.book[:, 3::4]

    @property
    def mid(self) -> np.ndarray:
        """Float64 `[N]`, mean of best ask and best bid."""
        return (self.book[:, 0] + self.book[:, 2]) / 2

    @property
    def spread(self) -> np.ndarray:
        """Float64 `[N]`, best ask minus best bid."""
        return self.book[:, 0] - self.book[:, 2]

    def rows(self, chosen: slice | np.ndarray) -> BookSeries:
        """Return the series at `chosen` rows, ascending."""
        if isinstance(chosen, slice):
            skipped = chosen.indices(len(self))[0]
        else:
            skipped = int(np.arange(len(self))[chosen][:1].sum())
        return BookSeries(
            self.instrument,
            self.day,
            self.time[chosen],
            self.book[chosen],
            self.source,
            self.first_row + skipped,
            self.tick,
            None if self.events is None else self.events.rows(chosen),
            None if self.given is None else self.given[chosen],
            None if self.given_labels is None else self.given_labels[chosen],
            self.given_horizons,
            self.normalised,
            None if self.flows is None else self.flows[chosen],
        )

"""The book after each message, from the messages and a starting book."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from domains.finance.data.book import EventType
from domains.finance.data.lobster_csv import Messages
from domains.finance.data.replay import Side, Vanished, replay
from domains.finance.data.starting_book import Inferred, StartingBook, before_first, infer_orders


@dataclass(frozen=True)
class Reconstruction:
    """Book rows that LOBSTER would write, in its units.

    Attributes:
        rows: int64 `[K]`, the message of each book row.
        book: int64 `[K, 4 L]`: ask price, ask size, bid price, bid size, best first; empty levels
            have price ±9999999999 and size 0.
        known_asks: int64 `[K]`, ask levels, counted from the best, that follow from the starting
            book and the messages alone. Deeper ones may lack orders that no message names, or
            hold orders whose end was outside the levels that the messages cover.
        known_bids: int64 `[K]`, the same for bids.
        inferred: Orders that were never submitted but later messages name.
        vanished: Levels that a message proves empty though no message emptied them.
        overdrawn: int64 `[n]`, messages that take more than their order or level holds.
    """

    rows: np.ndarray
    book: np.ndarray
    known_asks: np.ndarray
    known_bids: np.ndarray
    inferred: Inferred
    vanished: list[Vanished]
    overdrawn: np.ndarray


def reconstruct(
    messages: Messages,
    start: StartingBook,
    levels: int = 10,
    covered: int | None = None,
    form: Literal["careful", "plain"] = "careful",
) -> Reconstruction:
    """Replay messages order by order.

    Submissions add; partial cancels, deletions and visible executions take; hidden executions,
    crosses and halts leave the book as it is. Orders that were never submitted are inferred from
    the messages that name them (`starting_book.infer_orders`).

    What is inferred uses later messages, as nothing else can tell it: beyond `known_asks` and
    `known_bids` a row is what was probably there, in hindsight.

    Args:
        messages: N of them, in order.
        start: The book before or just after the first message.
        levels: L of the rows.
        covered: Level count of the message file: LOBSTER leaves out messages beyond it, so that
            orders come into view or disappear unseen. None where every order has its messages.
        form: `careful` lets orders that were submitted unseen enter when their id was given,
            and takes submitted orders that no later message names out when their level is not
            covered any more (if `covered` is above `levels`), and levels that a message proves
            empty then (`replay.Vanished`); `plain` has every unseen order from the start and
            removes none.

    Returns:
        A row for each message that changes the best `levels`, and for each hidden execution, cross
        and halt.
    """
    careful = form == "careful"
    start = before_first(start, messages)
    inferred = infer_orders(messages, start, by_id=careful)
    ask = Side(levels, covered, start.worst_ask)
    bid = Side(levels, covered, -start.worst_bid)
    orders = _open(start, inferred, ask, bid)
    wider = covered is not None and covered > levels
    unnamed = never_taken(messages) if careful and wider else {}
    found = replay(_with_late(messages, inferred), orders, ask, bid, unnamed if careful else None)
    tops = np.array(found.at, dtype=np.int64).reshape(-1, 2)
    return Reconstruction(
        np.array(found.rows, dtype=np.int64),
        found.book(ask, bid),
        np.array(ask.known)[tops[:, 0]],
        np.array(bid.known)[tops[:, 1]],
        inferred,
        found.vanished,
        np.unique(np.array(found.overdrawn, dtype=np.int64)),
    )


def never_taken(messages: Messages) -> dict[int, int]:
    """Return, by order id, the size of submitted orders that no message takes."""
    chosen = np.flatnonzero(messages.type <= EventType.EXECUTE)
    ids, group = np.unique(messages.order_id[chosen], return_inverse=True)
    submits = messages.type[chosen] == EventType.SUBMIT
    size = messages.size[chosen]
    left = np.bincount(group, np.where(submits, size, -size), len(ids)).astype(np.int64)
    kept = (left > 0) & (np.bincount(group, submits, len(ids)) > 0)
    return dict(zip(ids[kept].tolist(), left[kept].tolist(), strict=True))


def _open(start: StartingBook, inferred: Inferred, ask: Side, bid: Side) -> dict[int, int]:
    """Fill both sides with the book before the first message; return its orders' sizes."""
    sides = {-1: ask, 1: bid}
    columns = (start.price, start.size, start.side, start.order_id)
    orders: dict[int, int] = {}
    for price, size, side, order in zip(*(x.tolist() for x in columns), strict=True):
        sides[side].change(-side * price, size)
        if order:
            orders[order] = size
    early = inferred.before == 0
    columns = (inferred.price, inferred.size, inferred.side, inferred.order_id)
    for price, size, side, order, shown in zip(
        *(x[early].tolist() for x in (*columns, inferred.shown)), strict=True
    ):
        orders[order] = size
        if not shown:
            sides[side].change(-side * price, size)
    for one in (ask, bid):
        one.show()
    return orders


def _with_late(messages: Messages, inferred: Inferred) -> list[list[int]]:
    """Return columns of messages, and submissions of orders that entered unseen, with row -1."""
    late = np.flatnonzero(inferred.before > 0)
    late = late[np.argsort(inferred.before[late], kind="stable")]
    places = inferred.before[late]
    columns = [
        (np.arange(len(messages)), np.full(len(late), -1)),
        (messages.type, np.full(len(late), int(EventType.SUBMIT))),
        (messages.order_id, inferred.order_id[late]),
        (messages.size, inferred.size[late]),
        (messages.price, inferred.price[late]),
        (messages.direction, inferred.side[late]),
    ]
    return [np.insert(ours, places, theirs).tolist() for ours, theirs in columns]

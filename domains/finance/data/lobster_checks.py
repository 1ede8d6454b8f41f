"""What can be wrong with LOBSTER's numbers."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from domains.finance.data.book import EventType
from domains.finance.data.findings import Findings
from domains.finance.data.lobster_csv import EMPTY, SCALE, Messages

DAY = 86_400 * 10**9
_TICKS = (100, 10, 1)
_ENOUGH = 0.999
_VISIBLE = (EventType.SUBMIT, EventType.CANCEL, EventType.DELETE, EventType.EXECUTE)


def find_tick(messages: Messages) -> float:
    """Return the greatest of 1 cent, 0.1 cent and 0.01 cent that the order prices are on."""
    prices = messages.price[(messages.type >= 1) & (messages.type <= 4)]
    for tick in _TICKS:
        if np.count_nonzero(prices % tick == 0) >= _ENOUGH * len(prices):
            return tick / SCALE
    return 1 / SCALE


def check_messages(messages: Messages, tick: float, findings: Findings) -> None:
    """Add wrong types, directions, sizes, prices and times of messages to `findings`."""
    kind, halt = messages.type, messages.type == EventType.HALT
    visible = (kind >= 1) & (kind <= 4)

    def error(wrong: np.ndarray, what: str, remedy: str, values: np.ndarray) -> None:
        rows = np.flatnonzero(wrong)
        findings.rows("error", rows + 1, what, remedy, lambda n: f"{what}: {int(values[rows[n]])}")

    error((kind < 1) | (kind > 7), "unknown event type", "types are 1 to 7", kind)
    side = np.abs(messages.direction) != 1
    error(side & ~halt, "unknown direction", "directions are 1 and -1", messages.direction)
    traded = ~halt & (kind != EventType.CROSS)
    error(traded & (messages.size <= 0), "size not above 0", "correct the size", messages.size)
    priced = traded & (messages.price <= 0)
    error(priced, "price not above 0", "correct the price", messages.price)
    large = np.maximum(np.abs(messages.size), np.abs(messages.price)) >= EMPTY
    large_size = np.maximum(messages.size, messages.price)
    error(large, "size or price beyond 9999999998", "correct the cell", large_size)
    status = halt & (np.abs(messages.price) > 1)
    error(status, "unknown halt price", "-1 halt, 0 quoting, 1 resume", messages.price)
    outside = (messages.time < 0) | (messages.time >= DAY)
    error(outside, "time outside the day", "times are seconds after midnight", messages.time)
    back = np.r_[False, np.diff(messages.time) < 0]
    seconds = lambda n: f"time going back by {-_step(messages.time, back, n) / 1e9:.9f} s"  # noqa: E731
    findings.rows(
        "error", np.flatnonzero(back) + 1, "time going back", "sort both halves by time", seconds
    )
    step = max(1, round(tick * SCALE))
    off = np.flatnonzero(visible & (messages.price % step != 0))
    _off_tick(off + 1, messages.price[off], tick, findings)


def _step(time: np.ndarray, chosen: np.ndarray, n: int) -> int:
    row = np.flatnonzero(chosen)[n]
    return int(time[row] - time[row - 1])


def _off_tick(rows: np.ndarray, prices: np.ndarray, tick: float, findings: Findings) -> None:
    findings.rows(
        "warning",
        rows,
        "price off the tick",
        "set data.tick if the smallest price step is another",
        lambda n: f"price {prices[n] / SCALE:g} off the tick of {tick:g}",
    )


def check_halves(
    messages: Messages, ask: np.ndarray, bid: np.ndarray, findings: Findings, sample: int = 5000
) -> None:
    """Warn where order book rows do not show the orders that their messages submit.

    Args:
        messages: of both halves.
        ask: float64 `[N, L]`, prices.
        bid: float64 `[N, L]`, prices.
        findings: Where the warning goes.
        sample: How many submissions are looked at, evenly spread.
    """
    rows = np.flatnonzero(messages.type == EventType.SUBMIT)
    rows = rows[:: max(1, len(rows) // sample)]
    price, buys = messages.price[rows] / SCALE, messages.direction[rows] > 0
    side = np.where(buys[:, None], bid[rows], ask[rows])
    last = np.nan_to_num(side[:, -1], nan=np.inf)
    worst = np.where(buys, -last, last)
    deep = np.where(buys, -price, price) > worst
    lost = rows[~(side == price[:, None]).any(axis=1) & ~deep]
    if len(lost) > 0.01 * len(rows):
        findings.rows(
            "warning",
            lost + 1,
            "the order book row does not show the order that its message submits",
            "check that both halves are of the same day and start at the same row",
        )


class BookChecks:
    """Checks of order book rows in LOBSTER's integers, part by part."""

    def __init__(self, tick: float) -> None:
        self.step = max(1, round(tick * SCALE))
        self.tick = tick

    def part(self, columns: list[np.ndarray], first: int) -> dict[str, np.ndarray]:
        """Return the rows, counted from 1, of each kind of mistake; nothing where there is none.

        Args:
            columns: `4 L` of int64 `[n]`: ask price, ask size, bid price, bid size, best first.
            first: Number of the first row.
        """
        if self._clean(columns):
            return {}
        ask, bid = columns[0::4], columns[2::4]
        no_ask, no_bid = [a == EMPTY for a in ask], [b == -EMPTY for b in bid]
        sizes = [*zip(columns[1::4], no_ask, strict=True), *zip(columns[3::4], no_bid, strict=True)]
        prices = [*zip(ask, no_ask, strict=True), *zip(bid, no_bid, strict=True)]
        quoted = ~(no_ask[0] | no_bid[0])
        found = {
            "crossed": quoted & (ask[0] < bid[0]),
            "locked": quoted & (ask[0] == bid[0]),
            "size": _any(np.where(empty, size != 0, size <= 0) for size, empty in sizes),
            "price": _any((p <= 0) & ~empty | (p > EMPTY) for p, empty in prices),
            "order": _any(
                (better >= worse) & ~empty
                for better, worse, empty in zip(ask, ask[1:], no_ask[:-1], strict=False)
            )
            | _any(
                (better <= worse) & ~empty
                for better, worse, empty in zip(bid, bid[1:], no_bid[:-1], strict=False)
            )
            | _any(
                before & ~after for empty in (no_ask, no_bid) for before, after in pairwise(empty)
            ),
            "tick": _any((p % self.step != 0) & ~empty for p, empty in prices)
            if self.step > 1
            else np.zeros(len(ask[0]), dtype=bool),
        }
        return {kind: np.flatnonzero(wrong) + first for kind, wrong in found.items()}

    def _clean(self, columns: list[np.ndarray]) -> bool:
        """Say whether every level is occupied and nothing is wrong, which most parts are."""
        ask, bid = columns[0::4], columns[2::4]
        ascending = [*reversed(bid), *ask]
        return bool(
            ascending[0].min(initial=1) > 0
            and ascending[-1].max(initial=0) < EMPTY
            and all((low < high).all() for low, high in pairwise(ascending))
            and all(size.min(initial=1) > 0 for size in columns[1::2])
            and (
                self.step == 1 or all((p // self.step * self.step == p).all() for p in (*ask, *bid))
            )
        )

    def report(
        self, parts: list[dict[str, np.ndarray]], ignored: np.ndarray, out: Findings
    ) -> None:
        """Add what the parts found to `out`, but not crossed and locked books at `ignored` rows."""
        texts = {
            "crossed": ("error", "crossed book: best ask below best bid", "correct or remove rows"),
            "locked": ("warning", "locked book: best ask equals best bid", "check the source"),
            "size": (
                "error",
                "size not above 0 at an occupied level, or not 0 at an empty one",
                "correct the size",
            ),
            "price": ("error", "price not above 0", f"empty levels have prices ±{EMPTY}"),
            "order": ("error", "levels not from best to worst", "sort the levels of the row"),
            "tick": (
                "warning",
                f"price off the tick of {self.tick:g}",
                "set data.tick if the smallest price step is another",
            ),
        }
        for kind, (severity, what, remedy) in texts.items():
            rows = [part[kind] for part in parts if kind in part]
            if not rows:
                continue
            numbers = np.concatenate(rows)
            if kind in ("crossed", "locked"):
                numbers = numbers[~ignored[numbers - 1]]
            out.rows("error" if severity == "error" else "warning", numbers, what, remedy)


def _any(masks: object) -> np.ndarray:
    found: np.ndarray | bool = False
    for mask in masks:  # type: ignore[attr-defined]
        found = found | mask
    return np.asarray(found)

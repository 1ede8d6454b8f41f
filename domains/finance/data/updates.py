"""Rows of changes as updates: their sides, ids and snapshots, and where the book is known."""

from __future__ import annotations

import numpy as np
import pyarrow.compute as pc

from domains.finance.data.columns import Table
from domains.finance.data.findings import Findings
from domains.finance.data.lobster import runs

_BIDS, _ASKS = ("bid", "bids", "buy", "b", "1"), ("ask", "asks", "sell", "a", "s", "-1")
_TRUE = ("true", "1", "1.0", "t", "yes", "snapshot", "partial")
_FALSE = ("false", "0", "0.0", "f", "no", "update", "delta", "")


def sides(table: Table, findings: Findings) -> np.ndarray:
    """Return 1 for bids and -1 for asks, int8 `[N]`."""
    words = _words(table, "side")
    bid, ask = np.isin(words, _BIDS), np.isin(words, _ASKS)
    wrong = np.flatnonzero(~(bid | ask))
    findings.rows(
        "error",
        wrong + table.first,
        "unknown side",
        "write bid or ask",
        lambda n: f"unknown side {str(words[wrong[n]])[:40]!r}",
    )
    return np.where(bid, 1, -1).astype(np.int8)


def _words(table: Table, name: str) -> np.ndarray:
    column = table.column(name)
    text = pc.cast(column, "string") if str(column.type) != "string" else column
    found = pc.utf8_lower(pc.utf8_trim_whitespace(pc.fill_null(text, "")))
    encoded = found.combine_chunks().dictionary_encode()
    words = np.array(encoded.dictionary.to_pylist() or [""], dtype=object)
    return words[encoded.indices.to_numpy()].astype(str)


def updates(
    table: Table, time: np.ndarray, findings: Findings
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return per row: whether it is of a snapshot, the number of its update, and lost ones before.

    bool, int64 and bool, `[N]` each.
    """
    rows = len(time)
    whole = np.zeros(rows, dtype=bool)
    if "is_snapshot" in table:
        words = _words(table, "is_snapshot")
        whole = np.isin(words, _TRUE)
        wrong = np.flatnonzero(~whole & ~np.isin(words, _FALSE))
        findings.rows(
            "error", wrong + table.first, "is_snapshot: neither true nor false", "correct the cell"
        )
    lost = np.zeros(rows, dtype=bool)
    if "sequence" not in table:
        new = (np.diff(time) != 0) | (np.diff(whole) != 0)
        return whole, np.cumsum(np.r_[0, new]), lost
    last = table.numbers("sequence", findings)
    first = table.numbers("first_sequence", findings) if "first_sequence" in table else last
    back = np.flatnonzero(np.diff(last) < 0) + 1
    back = back[~whole[back]]
    findings.rows("error", back + table.first, "sequence going back", "sort the rows by sequence")
    new = np.r_[False, np.diff(last) != 0]
    before = np.r_[first[:1], last[:-1]]
    lost = new & (first > before + 1) & ~whole
    found = np.flatnonzero(lost)
    findings.rows(
        "warning",
        found + table.first,
        "updates are missing before the row",
        "nothing to do: rows up to the next snapshot are left out",
        lambda n: f"{first[found[n]] - before[found[n]] - 1:.0f} ids are missing before the row",
    )
    new[1:] |= np.diff(whole) != 0
    return whole, np.cumsum(new), lost


def tell_copies(
    update: np.ndarray, side: np.ndarray, price: np.ndarray, numbers: np.ndarray, out: Findings
) -> None:
    """Warn of prices that one update sets twice."""
    order = np.lexsort((price, side, update))
    same = (
        (np.diff(update[order]) == 0) & (np.diff(side[order]) == 0) & (np.diff(price[order]) == 0)
    )
    rows = np.sort(order[1:][same])
    what = "the same price twice in one update"
    out.rows("warning", numbers[rows], what, "nothing to do: the later row counts")


def alive(starts: np.ndarray, whole: np.ndarray, lost: np.ndarray) -> np.ndarray:
    """Return, per update, whether the book is known after it, bool `[U]`."""
    snapshot = whole[starts]
    broken = np.logical_or.reduceat(lost, starts)
    known, state = np.zeros(len(starts), dtype=bool), not snapshot.any()
    for number, (full, gap) in enumerate(zip(snapshot.tolist(), broken.tolist(), strict=True)):
        state = full or (state and not gap)
        known[number] = state
    return known


def tell_left_out(
    starts: np.ndarray, known: np.ndarray, numbers: np.ndarray, findings: Findings
) -> None:
    """Warn of the rows of updates that are not `known`, bool `[U]`."""
    stops = np.r_[starts[1:], len(numbers)]
    for run in runs(~known):
        count = int(stops[run.stop - 1] - starts[run.start])
        findings.rows(
            "warning",
            numbers[starts[run.start : run.start + 1]],
            "rows without a known book",
            "give a snapshot before them, or nothing to do: they are left out",
            lambda _, count=count: f"{count} rows without a known book from here on",  # type: ignore[misc]
        )

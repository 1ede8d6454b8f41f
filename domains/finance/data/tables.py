"""What tables of snapshots and of diffs have in common: their checks, and where a series ends."""

from __future__ import annotations

import numpy as np

from domains.finance.data.findings import Findings

GAP_SECONDS = 60
_MANY = 50


def check_order(time: np.ndarray, first: int, findings: Findings) -> None:
    """Add times that go back."""
    back = np.flatnonzero(np.diff(time) < 0)
    findings.rows(
        "error",
        back + 1 + first,
        "time going back",
        "sort the rows by time",
        lambda n: f"time going back by {(time[back[n]] - time[back[n] + 1]) / 1e9:g} s",
    )


def time_gaps(time: np.ndarray) -> np.ndarray:
    """Return the rows after a gap: a minute, and 50 times the middle step, without a row."""
    step = np.diff(time)
    if not len(step):
        return np.zeros(0, dtype=np.int64)
    usual = float(np.median(step))
    return np.flatnonzero(step > max(GAP_SECONDS * 1e9, _MANY * usual)) + 1


def tell_gaps(rows: np.ndarray, time: np.ndarray, numbers: np.ndarray, findings: Findings) -> None:
    """Warn of the gaps before `rows`, whose numbers in the file are `numbers`."""
    findings.rows(
        "warning",
        numbers,
        "a gap before the row",
        "nothing to do: a new series starts there",
        lambda n: f"a gap of {(time[rows[n]] - time[rows[n] - 1]) / 1e9:.6g} s before the row",
    )


def check_book(book: np.ndarray, numbers: np.ndarray, findings: Findings) -> None:
    """Add crossed and locked books.

    Args:
        book: float64 `[N, 4 L]`.
        numbers: int64 `[N]`, numbers of the rows in the file.
        findings: Where they go.
    """
    crossed = book[:, 0] < book[:, 2]
    remedy = "remove the rows, or start from a new snapshot where updates were lost"
    findings.rows("error", numbers[crossed], "crossed book: best ask below best bid", remedy)
    locked = book[:, 0] == book[:, 2]
    remedy = "nothing to do unless it is often"
    findings.rows("warning", numbers[locked], "locked book: best ask equals best bid", remedy)

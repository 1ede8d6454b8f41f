"""The probability of forecasting a complete transaction correctly.

Briola, Bartolucci & Aste (2024), "Deep Limit Order Book Forecasting: a microstructural guide",
arXiv 2403.09267 (Quantitative Finance 25(7), 2025). Scores of single forecasts do not say whether
the two that matter to a trade, the one that opens it and the one that closes it, are right. Their
p_T does: with PT the transactions that the true labels contain, TT those that the forecasts make
and CT the correct ones among these,

    p_T = CT / (PT + TT - CT).

The rule used here, exactly:

- Up and down are signals, stationary is none. Within a series the first signal opens a position;
  signals of the same direction and stationary forecasts leave it; the first opposite signal closes
  it, and opens the opposite position. A transaction is one opening with its closing.
- A position that is still open when its series ends is not a transaction, of labels or forecasts,
  and nothing is carried into the next series.
- A transaction of the forecasts is correct where the labels of both its rows, opening and closing,
  are the classes that were forecast.
- PT counts the transactions of the labels, cut by the same rule.

CT is at most PT and at most TT: between two such rows the labels change direction too. `p_t_exact`
asks for more, that the labels open and close at those very rows, which makes it the Jaccard index
of the two sets of transactions. The paper's text was not at hand in full, and its published code
has no function for p_T; the formula and these counts are as third parties quote them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from domains.finance.resampling import interval, resampled_means
from domains.finance.signals import DIRECTION, signals
from shared_runtime.domain import Interval


@dataclass(frozen=True)
class Transactions:
    """Complete transactions of a sequence of signals, one entry each, k.

    Attributes:
        opening: int64 `[k]`, item that opens.
        closing: int64 `[k]`, item that closes.
        side: int8 `[k]`, 1 long, -1 short.
    """

    opening: np.ndarray
    closing: np.ndarray
    side: np.ndarray

    def __len__(self) -> int:
        return len(self.opening)


def transactions(signal: np.ndarray, series: np.ndarray) -> Transactions:
    """Return the complete transactions of `signal` (1, 0, -1), none across two series.

    Args:
        signal: integers `[n]`, in time order within each series.
        series: integers `[n]`.
    """
    acting = np.flatnonzero(signal)
    direction, within = signal[acting], series[acting]
    turns = np.ones(len(acting), dtype=bool)
    turns[1:] = (direction[1:] != direction[:-1]) | (within[1:] != within[:-1])
    turning = acting[turns]
    complete = series[turning[1:]] == series[turning[:-1]]
    opening, closing = turning[:-1][complete], turning[1:][complete]
    return Transactions(opening, closing, signal[opening].astype(np.int8))


def transaction_metrics(
    probability: np.ndarray,
    label: np.ndarray,
    series: np.ndarray | None = None,
    *,
    threshold: float | None = None,
    block: int = 1,
    seed: int = 0,
    resamples: int = 1000,
) -> dict[str, Interval]:
    """Return `p_t`, `p_t_exact` and `transaction_precision` (CT / TT), with 95 % intervals.

    Zero where the forecasts make no transaction although the labels contain some; NaN values are
    never returned: without any transaction at all the score is zero too.

    Args:
        probability: `[n, 3]`, in time order within each series.
        label: classes `[n]`.
        series: integers `[n]`; one series where None.
        threshold: of `signals`; labels have no threshold.
        block: items drawn together by the bootstrap. Resamples draw whole transactions by the item
            that closes them.
        seed: of the bootstrap.
        resamples: number of bootstrap samples; 0 gives no bounds.
    """
    series = np.zeros(len(label), dtype=np.int64) if series is None else series
    counts = transaction_counts(signals(probability, threshold), label, series)
    means = None
    if resamples and len(label) >= 2 * block:
        means = resampled_means(counts, series, block=block, seed=seed, resamples=resamples)
    return {
        "p_t": interval(_p_t, counts, means),
        "p_t_exact": interval(_p_t_exact, counts, means),
        "transaction_precision": interval(_precision, counts, means),
    }


def transaction_counts(signal: np.ndarray, label: np.ndarray, series: np.ndarray) -> np.ndarray:
    """Return PT, TT, CT and the exact CT at the item that closes each transaction, `[n, 4]`."""
    truth = DIRECTION[label]
    made, possible = transactions(signal, series), transactions(truth, series)
    right = (truth[made.opening] == made.side) & (truth[made.closing] == -made.side)
    opened = np.full(len(label), -1)
    opened[possible.closing] = possible.opening
    exact = right & (opened[made.closing] == made.opening)
    counts = np.zeros((len(label), 4))
    counts[possible.closing, 0] = 1
    counts[made.closing, 1] = 1
    counts[made.closing, 2] = right
    counts[made.closing, 3] = exact
    return counts


def threshold_table(
    probability: np.ndarray,
    label: np.ndarray,
    series: np.ndarray,
    thresholds: tuple[float, ...] = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
) -> pd.DataFrame:
    """Return the counts and p_T at several thresholds of the class probability.

    Columns: `threshold` (0: the likeliest class), `possible` PT, `made` TT, `correct` CT, `p_t`.
    """
    rows = []
    for threshold in (None, *thresholds):
        counts = transaction_counts(signals(probability, threshold), label, series)
        possible, made, correct, _ = (int(total) for total in counts.sum(axis=0))
        rows.append(
            {
                "threshold": threshold or 0.0,
                "possible": possible,
                "made": made,
                "correct": correct,
                "p_t": float(_p_t(counts.sum(axis=0))),
            }
        )
    return pd.DataFrame(rows)


def _p_t(counts: np.ndarray) -> np.ndarray:
    return _share(counts[..., 2], counts[..., 0] + counts[..., 1] - counts[..., 2])


def _p_t_exact(counts: np.ndarray) -> np.ndarray:
    return _share(counts[..., 3], counts[..., 0] + counts[..., 1] - counts[..., 3])


def _precision(counts: np.ndarray) -> np.ndarray:
    return _share(counts[..., 2], counts[..., 1])


def _share(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.zeros(np.shape(above)), where=below > 0)

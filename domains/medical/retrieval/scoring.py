"""How well an embedding groups and finds images, with intervals over patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import logsumexp

from domains.medical.retrieval.clustering import cluster
from shared_runtime.domain import Interval

RANKS = (1, 2, 4, 8)
_QUERIES_AT_ONCE = 1024


def ranked(
    query: np.ndarray,
    gallery: np.ndarray,
    *,
    most: int | None = None,
    barred: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the gallery in order of distance, nearest first: indices and distances `[Q, most]`.

    Where distances are equal, the gallery's order counts. Barred items come last, infinitely far.

    Args:
        query: `[Q, E]`.
        gallery: `[G, E]`.
        most: how many to return; all where None.
        barred: bool `[Q, G]`, items of the gallery that a query must not find.
    """
    squared = (gallery.astype(np.float64) ** 2).sum(axis=1)
    order, distance = [], []
    for first in range(0, len(query), _QUERIES_AT_ONCE):
        part = query[first : first + _QUERIES_AT_ONCE].astype(np.float64)
        gap = (part**2).sum(axis=1)[:, None] + squared - 2 * part @ gallery.T.astype(np.float64)
        gap = np.sqrt(np.maximum(gap, 0))
        if barred is not None:
            gap[barred[first : first + len(part)]] = np.inf
        rows = np.argsort(gap, axis=1, kind="stable")[:, :most]
        order.append(rows)
        distance.append(np.take_along_axis(gap, rows, axis=1))
    return np.concatenate(order), np.concatenate(distance)


def average_precision(embedding: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the average precision of each image as a query among the others, `[n]`.

    NaN where no other image has its class.
    """
    count = len(target)
    order, _ = ranked(embedding, embedding, barred=np.eye(count, dtype=bool))
    hit = target[order[:, : count - 1]] == target[:, None]
    found = hit.cumsum(axis=1)
    precision = found / np.arange(1, count)
    relevant = hit.sum(axis=1)
    mean = (precision * hit).sum(axis=1) / np.maximum(relevant, 1)
    return np.where(relevant > 0, mean, np.nan)


def neighbour_loss(embedding: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return how unlikely each image's neighbour is to have its class, `[n]`.

    Minus the logarithm of the share of exp(-d² / 0.5) over the other images that falls to its
    class; NaN where no other image has it.

    Source: Goldberger et al., Neighbourhood Components Analysis, NeurIPS 2004, equation 1.
    """
    points = embedding.astype(np.float64)
    squared = (points**2).sum(axis=1)
    gap = np.maximum(squared[:, None] + squared - 2 * points @ points.T, 0) / 0.5
    np.fill_diagonal(gap, np.inf)
    same = target[:, None] == target[None]
    all_of, of_class = logsumexp(-gap, axis=1), logsumexp(np.where(same, -gap, -np.inf), axis=1)
    return np.where(np.isfinite(of_class), all_of - of_class, np.nan)


def hits(embedding: np.ndarray, target: np.ndarray, patients: Sequence[str]) -> np.ndarray:
    """Return whether one of the `RANKS` nearest images of another patient has a query's class.

    The published scores count images of the same patient too, which are often near duplicates.

    Args:
        embedding: `[n, E]`.
        target: `[n]`.
        patients: `[n]`.

    Returns:
        float64 `[n, len(RANKS)]`; NaN for queries whose class no other patient has.
    """
    _, patient = np.unique(np.asarray(patients), return_inverse=True)
    barred = patient[:, None] == patient[None]
    possible = ((target[:, None] == target[None]) & ~barred).any(axis=1)
    order, distance = ranked(embedding, embedding, most=max(RANKS), barred=barred)
    same = (target[order] == target[:, None]) & np.isfinite(distance)
    found = np.stack([same[:, :k].any(axis=1) for k in RANKS], axis=1).astype(np.float64)
    return np.where(possible[:, None], found, np.nan)


def scores(
    embedding: np.ndarray,
    target: np.ndarray,
    patients: Sequence[str],
    *,
    seed: int,
    resamples: int = 1000,
) -> dict[str, Interval]:
    """Return `nmi` and `recall_1`, `recall_2`, `recall_4`, `recall_8` with their intervals.

    NMI compares k-means of the embedding, with as many groups as classes occur, with the classes.
    Patients are drawn with replacement; the groups are found once. Recall is left out where no
    image has one of its class from another patient.

    Args:
        embedding: `[n, E]`.
        target: `[n]` int64.
        patients: `[n]`.
        seed: of k-means and the draws.
        resamples: draws of the bootstrap.
    """
    classes, label = np.unique(target, return_inverse=True)
    groups = cluster(embedding, len(classes), seed=seed)
    _, patient = np.unique(np.asarray(patients), return_inverse=True)
    number = int(patient.max()) + 1
    table = np.zeros((number, len(classes), int(groups.max()) + 1))
    np.add.at(table, (patient, label, groups), 1)
    draws = _draws(number, resamples, seed)
    found = {"nmi": _interval(nmi(table.sum(axis=0)), nmi(np.tensordot(draws, table, 1)))}
    hit = hits(embedding, target, patients)
    used = np.isfinite(hit[:, 0])
    if used.any():
        kept = np.asarray(patients)[used]
        for column, k in enumerate(RANKS):
            found[f"recall_{k}"] = mean_over_patients(
                hit[used, column], kept, seed=seed, resamples=resamples
            )
    return found


def mean_over_patients(
    per_image: np.ndarray, patients: Sequence[str] | np.ndarray, *, seed: int, resamples: int = 1000
) -> Interval:
    """Return the mean over images `[n]`, with the interval over patients drawn with replacement."""
    _, patient = np.unique(np.asarray(patients), return_inverse=True)
    count, total = np.bincount(patient), np.bincount(patient, per_image)
    draws = _draws(len(count), resamples, seed)
    return _interval(per_image.mean(), draws @ total / (draws @ count))


def nmi(table: np.ndarray) -> np.ndarray:
    """Return the normalised mutual information of tables of counts `[..., classes, groups]`.

    The mutual information over the mean of both entropies, 0 to 1; 1 where there is one of each.
    """
    share = table / np.maximum(table.sum(axis=(-2, -1), keepdims=True), 1e-300)
    row, column = share.sum(axis=-1), share.sum(axis=-2)
    both, of_row, of_column = (
        -np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=axes)
        for p, axes in ((share, (-2, -1)), (row, -1), (column, -1))
    )
    mean = (of_row + of_column) / 2
    return np.where(mean > 1e-12, (of_row + of_column - both) / np.maximum(mean, 1e-12), 1.0)


def values(found: Mapping[str, Interval]) -> dict[str, float]:
    """Return the scores without their intervals."""
    return {name: interval.value for name, interval in found.items()}


def _draws(number: int, resamples: int, seed: int) -> np.ndarray:
    """Return how often each patient is drawn, `[resamples, number]`."""
    chances = np.full(number, 1 / number)
    return np.random.default_rng(seed).multinomial(number, chances, size=resamples).astype(float)


def _interval(value: float | np.ndarray, means: np.ndarray) -> Interval:
    if len(means) < 2:
        return Interval(float(value))
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(value), float(low), float(high))

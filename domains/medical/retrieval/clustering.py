"""Groups of similar images, found by k-means and named alike from one time to the next."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits


def cluster(points: np.ndarray, groups: int, *, seed: int) -> np.ndarray:
    """Return the group of each point, int64 `[n]`, of `groups` found by k-means.

    One thread, so that the same points give the same groups on every machine of a kind. Where
    there are fewer different points than groups, some groups are empty.

    Args:
        points: `[n, F]`.
        groups: how many.
        seed: of the starting centres; the best of five is kept.
    """
    different = len(np.unique(points, axis=0))
    with threadpool_limits(limits=1):
        means = KMeans(min(groups, different), n_init=5, random_state=seed)
        return means.fit_predict(points.astype(np.float64)).astype(np.int64)


def renamed(groups: np.ndarray, before: np.ndarray, count: int) -> np.ndarray:
    """Return `groups` under the names that agree most with `before`, both `[n]` in 0 to `count`.

    Learners keep what they have learned from: a group goes to the learner that had most of its
    images (Kuhn's assignment), and a new learner gets the one that is left.
    """
    shared = np.zeros((count, count), dtype=np.int64)
    np.add.at(shared, (groups, before), 1)
    rows, columns = linear_sum_assignment(shared, maximize=True)
    names = np.empty(count, dtype=np.int64)
    names[rows] = columns
    return names[groups]


def centres(points: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """Return the mean of each group's points, `[count, F]`; of all points where it has none."""
    member = groups[:, None] == np.arange(count)
    size = member.sum(axis=0)[:, None]
    means = member.T.astype(np.float64) @ points / np.maximum(size, 1)
    return np.where(size > 0, means, points.mean(axis=0))

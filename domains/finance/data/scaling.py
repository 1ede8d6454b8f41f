"""Scaling of features, fitted on the training part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

KNOTS = 65
_LARGEST_RANK = 0.998
_BLOCK = 2048
_NOISE = 1e-9


@dataclass(frozen=True)
class Scaler:
    """Mean and standard deviation of each feature, float64 `[F]`."""

    mean: np.ndarray
    std: np.ndarray

    def transform(self, features: np.ndarray) -> np.ndarray:
        """Standardise `[..., F]`, float32; what is not finite becomes 0, the mean."""
        mean, std = self.mean.astype(np.float32), self.std.astype(np.float32)
        out = np.empty(features.shape, np.float32)
        for start in range(0, len(features), _BLOCK):
            block = out[start : start + _BLOCK]
            np.subtract(features[start : start + _BLOCK], mean, out=block)
            block /= std
            np.copyto(block, 0.0, where=~np.isfinite(block))
        return out


def fit_scaler(parts: Sequence[np.ndarray], groups: np.ndarray) -> Scaler:
    """Return mean and deviation of the finite values of the training part.

    Args:
        parts: features of each stretch, `[n, F]` each.
        groups: int64 `[F]`; columns of the same number share their statistics.

    Returns:
        A scaler whose deviation is 1 where a column never changes or was never seen.
    """
    _, groups = np.unique(groups, return_inverse=True)
    number = int(groups.max(initial=-1)) + 1
    shift = _first_seen(parts, groups, number)
    count, total, squares = np.zeros(number), np.zeros(number), np.zeros(number)
    for part in parts:
        for start in range(0, len(part), _BLOCK):
            distance = part[start : start + _BLOCK].astype(np.float64) - shift[groups]
            seen = np.isfinite(distance)
            distance[~seen] = 0.0
            count += np.bincount(groups, seen.sum(axis=0), number)
            total += np.bincount(groups, distance.sum(axis=0), number)
            squares += np.bincount(groups, np.einsum("nf,nf->f", distance, distance), number)
    count = np.maximum(count, 1)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
    centre = shift + mean
    std = np.where(std > _NOISE * np.abs(centre), std, 1.0)
    return Scaler(centre[groups], std[groups])


def _first_seen(parts: Sequence[np.ndarray], groups: np.ndarray, number: int) -> np.ndarray:
    """Return a finite value of each group, so that sums of squares lose no digits."""
    shift = np.full(number, np.nan)
    blocks = (part[i : i + _BLOCK] for part in parts for i in range(0, len(part), _BLOCK))
    for block in blocks:
        missing = np.flatnonzero(np.isnan(shift[groups]))
        if not len(missing):
            break
        seen = np.isfinite(block[:, missing])
        for column in np.flatnonzero(seen.any(axis=0)):
            shift[groups[missing[column]]] = block[seen[:, column].argmax(), missing[column]]
    return np.nan_to_num(shift)


@dataclass(frozen=True)
class RankScaler:
    """Each feature as the normal score of its rank in the training part, between -2.9 and 2.9.

    Outliers, skewness and units are gone, and equal steps hold equal numbers of training rows.
    Between `KNOTS` quantiles ranks are interpolated; ties share their middle rank.
    """

    value: np.ndarray
    """Float64 `[F, KNOTS]`, ascending quantiles."""
    score: np.ndarray
    """Float64 `[F, KNOTS]`, normal score of each."""

    def transform(self, features: np.ndarray) -> np.ndarray:
        """Return scores of `[N, F]`, float32; what is not a number becomes 0, the middle."""
        out = np.empty(features.shape, np.float32)
        for start in range(0, len(features), _BLOCK):
            block = np.ascontiguousarray(features[start : start + _BLOCK].T, dtype=np.float64)
            columns = zip(block, self.value, self.score, strict=True)
            scores = [np.interp(x, value, score) for x, value, score in columns]
            out[start : start + _BLOCK] = np.nan_to_num(np.stack(scores, axis=1))
        return out


def fit_rank_scaler(parts: Sequence[np.ndarray]) -> RankScaler:
    """Return the scaler of the finite values of the training part.

    Args:
        parts: features of each stretch, `[n, F]` each.
    """
    share = np.linspace(0.0, 1.0, KNOTS)
    values, scores = [], []
    for column in range(parts[0].shape[1]):
        seen = np.concatenate([part[:, column] for part in parts]).astype(np.float64)
        seen = np.sort(seen[np.isfinite(seen)])
        if not len(seen):
            seen = np.zeros(1)
        value = np.quantile(seen, share)
        middle = (np.searchsorted(seen, value, "left") + np.searchsorted(seen, value, "right")) / 2
        rank = np.clip(middle / len(seen), 1 - _LARGEST_RANK, _LARGEST_RANK)
        values.append(value)
        scores.append(ndtri(rank))
    return RankScaler(np.stack(values), np.stack(scores))

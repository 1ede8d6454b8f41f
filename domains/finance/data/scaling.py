"""Scaling of features, fitted on the training part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.special import ndtri

from domains.finance.data.blocks import in_blocks

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

        def fill(start: int, stop: int) -> None:
            block = out[start:stop]
            np.subtract(features[start:stop], mean, out=block)
            block /= std
            seen = np.isfinite(block)
            if not seen.all():
                np.copyto(block, 0.0, where=~seen)

        in_blocks(fill, len(features), _BLOCK)
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
    sums = np.zeros((3, len(groups)))
    for part in parts:
        sums += sum(in_blocks(partial(_block_sums, part, shift[groups]), len(part), _BLOCK))
    count, total, squares = (np.bincount(groups, one, number) for one in sums)
    count = np.maximum(count, 1)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
    centre = shift + mean
    std = np.where(std > _NOISE * np.abs(centre), std, 1.0)
    return Scaler(centre[groups], std[groups])


def _block_sums(part: np.ndarray, shift: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Return number, sum and sum of squares of the finite distances from `shift`, `[3, F]`."""
    distance = np.subtract(part[start:stop], shift, dtype=np.float64)
    seen = np.isfinite(distance)
    count = np.full(len(shift), float(len(distance)))
    if not seen.all():
        distance[~seen] = 0.0
        count = seen.sum(axis=0).astype(np.float64)
    return np.stack([count, distance.sum(axis=0), np.einsum("nf,nf->f", distance, distance)])


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

        def fill(start: int, stop: int) -> None:
            block = np.ascontiguousarray(features[start:stop].T, dtype=np.float64)
            columns = zip(block, self.value, self.score, strict=True)
            scores = [np.interp(x, value, score) for x, value, score in columns]
            out[start:stop] = np.nan_to_num(np.stack(scores, axis=1))

        in_blocks(fill, len(features), _BLOCK)
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

"""What a network has to beat: masks without looking at the scan, or by its intensities alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

Baseline = Callable[[np.ndarray], np.ndarray]
_ATLAS_SIDE = 128
_BINS = 256
_SAMPLED = 20_000


def fit_baselines(
    train: Iterable[tuple[np.ndarray, np.ndarray]], classes: int
) -> Mapping[str, Baseline]:
    """Fit the baselines on scans in canonical orientation.

    Places are shares of a scan's sides and not voxels or mm, so that scans of other spacings and
    sizes are dealt with as long as they show the same part of the body.

    Args:
        train: `(image, label)` of each training case: `[C, *grid]` and class indices `[*grid]`;
            gone through once, one case in memory at a time, so that it may read files.
        classes: with the background.

    Returns:
        Functions from an image `[C, *grid]` to class indices uint8 `[*grid]`:

        - `majority`: the most common class everywhere; in nearly all data an empty mask.
        - `atlas`: the most common class at each place of the training scans; reads no intensity.
        - `threshold`: an interval of intensities for each class, of the channel and scale (as they
          are, or standardised in each scan) that gives the largest Dice over the training voxels.

    Raises:
        ValueError: there is no training case.
    """
    shares = np.zeros(classes)
    labels, samples = [], []
    for image, label in train:
        shares += np.bincount(label.ravel(), minlength=classes)[:classes] / label.size
        labels.append(_thinned(label))
        samples.append(_sample(image, label))
    if not labels:
        raise ValueError("fit_baselines: expected at least one training case")
    majority = int(np.argmax(shares))
    return {
        "majority": lambda image: np.full(image.shape[1:], majority, dtype=np.uint8),
        "atlas": fit_atlas(labels, classes),
        "threshold": fit_threshold(
            *(np.concatenate(part, axis=-1) for part in zip(*samples, strict=True))
        ),
    }


@dataclass(frozen=True)
class Atlas:
    """How often each class is at each place.

    Args:
        frequency: `[K, *grid]` float32, sums to 1 over K; its grid stands for the whole scan.
    """

    frequency: np.ndarray

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Return the most frequent class at each voxel of `image` `[C, *grid]`."""
        shape = image.shape[1:]
        best = np.zeros(shape, dtype=np.float32)
        mask = np.zeros(shape, dtype=np.uint8)
        for index, frequency in enumerate(self.frequency):
            here = _resized(frequency, shape)
            mask[here > best] = index
            np.maximum(best, here, out=best)
        return mask


def fit_atlas(labels: Sequence[np.ndarray], classes: int) -> Atlas:
    """Average label maps, each class resized linearly to the median size of the cases."""
    shape = tuple(int(side) for side in np.median([label.shape for label in labels], axis=0))
    total = np.zeros((classes, *shape), dtype=np.float32)
    for label in labels:
        for index in range(classes):
            total[index] += _resized((label == index).astype(np.float32), shape)
    return Atlas(total / len(labels))


@dataclass(frozen=True)
class Threshold:
    """Intervals of intensities, one for each class that has one.

    Args:
        rules: `(class, channel, standardised, low, high)`, painted in this order.
    """

    rules: tuple[tuple[int, int, bool, float, float], ...]

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Return the class of each voxel of `image` `[C, *grid]`, 0 where no rule holds."""
        mask = np.zeros(image.shape[1:], dtype=np.uint8)
        for index, channel, standardised, low, high in self.rules:
            values = _scaled(image[channel], standardised)
            mask[(values >= low) & (values < high)] = index
        return mask


def fit_threshold(values: np.ndarray, label: np.ndarray) -> Threshold:
    """Find for each class the interval of intensities with the largest Dice.

    All intervals between 256 quantiles of the intensities are tried. Where the intervals of two
    classes overlap, the class with the larger Dice wins.

    Args:
        values: `[C, 2, n]` intensities of sampled voxels in each channel, as they are and
            standardised in their scan.
        label: their classes `[n]`.
    """
    found = []
    for channel, scale in np.ndindex(*values.shape[:2]):
        each = values[channel, scale]
        edges = np.unique(np.quantile(each, np.linspace(0, 1, _BINS + 1)[1:-1]))
        edges = np.concatenate([[-np.inf], edges, [np.inf]])
        place = np.searchsorted(edges, each, side="right") - 1
        whole = np.bincount(place, minlength=len(edges) - 1)
        for index in range(1, int(label.max()) + 1):
            inside = np.bincount(place[label == index], minlength=len(edges) - 1)
            if inside.any():
                dice, first, last = _best_interval(inside, whole)
                rule = (index, channel, scale == 1, float(edges[first]), float(edges[last]))
                found.append((dice, rule))
    found.sort(key=lambda each: (each[0], not each[1][2]))
    best = {rule[0]: (dice, rule) for dice, rule in found}
    return Threshold(tuple(rule for _, rule in sorted(best.values(), key=lambda each: each[0])))


def _best_interval(inside: np.ndarray, whole: np.ndarray) -> tuple[float, int, int]:
    """Return the largest Dice of bins `first` to before `last`."""
    hit, taken = (np.concatenate([[0], np.cumsum(each)]) for each in (inside, whole))
    overlap = hit[None, :] - hit[:, None]
    size = taken[None, :] - taken[:, None]
    dice = np.where(size > 0, 2 * overlap / np.maximum(size + inside.sum(), 1), 0.0)
    first, last = np.unravel_index(np.argmax(dice), dice.shape)
    return float(dice[first, last]), int(first), int(last)


def _sample(image: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return intensities `[C, 2, n]` and classes `[n]` of evenly spread voxels."""
    kept = np.linspace(0, label.size - 1, min(label.size, _SAMPLED)).astype(np.int64)
    values = [[_scaled(one, how).ravel()[kept] for how in (False, True)] for one in image]
    return np.array(values), label.ravel()[kept]


def _thinned(label: np.ndarray) -> np.ndarray:
    """Take the nearest voxels where a side is longer than an atlas."""
    places = [
        ((np.arange(min(n, _ATLAS_SIDE)) + 0.5) * n / min(n, _ATLAS_SIDE)).astype(np.int64)
        for n in label.shape
    ]
    return label[np.ix_(*places)].astype(np.uint8)


def _scaled(channel: np.ndarray, standardised: bool) -> np.ndarray:
    values = channel.astype(np.float32)
    return (values - values.mean()) / max(float(values.std()), 1e-12) if standardised else values


def _resized(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Resize linearly, the outer faces of both grids aligned."""
    if values.shape == shape:
        return values
    zoom = [new / old for new, old in zip(shape, values.shape, strict=True)]
    return ndimage.zoom(
        values, zoom, order=1, mode="nearest", grid_mode=True, prefilter=False
    ).astype(np.float32)

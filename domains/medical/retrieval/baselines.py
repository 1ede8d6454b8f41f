"""What an embedding must beat: pixels, colours, a plain classifier, and chance."""

from __future__ import annotations

import numpy as np
import torch

from domains.medical.retrieval.classifier import TrainedClassifier, train_classifier
from domains.medical.retrieval.data import RetrievalImages, resized
from domains.medical.retrieval.scoring import scores, values
from domains.medical.retrieval.weak import dice, weak_masks

_BINS = 8
_PIXELS = {2: 32, 3: 16}


def baseline_scores(
    train: RetrievalImages, items: RetrievalImages, *, seed: int, device: torch.device
) -> dict[str, dict[str, float]]:
    """Return NMI, Recall@K and, where there are masks, `weak_dice` of every baseline.

    `nearest pixels` compares images of 32 x 32 (16 voxels a side in 3-D), `intensity histogram`
    the joint histogram of all channels, `classifier` the features of a network of the same kind
    trained with cross-entropy, whose Grad-CAM maps give its masks; `chance` has random embeddings.

    Args:
        train: training part.
        items: scored part, without augmentation.
        seed: of the classifier and the random embeddings.
        device: where the classifier is trained.
    """
    trained = TrainedClassifier(train_classifier(train, seed=seed, device=device), device)
    random = np.random.default_rng(seed).normal(size=(len(items), 64))
    embeddings = {
        "nearest pixels": pixels(items.images),
        "intensity histogram": histogram(items.images, train.images),
        "classifier": trained.embeddings(items),
        "chance": random,
    }
    found = {
        name: values(scores(embedding, items.target, items.patients, seed=seed, resamples=2))
        for name, embedding in embeddings.items()
    }
    if items.masks is not None:
        found["classifier"]["weak_dice"] = float(
            dice(weak_masks(trained.maps(items)), items.masks).mean()
        )
        everything = np.ones_like(items.masks)
        found["chance"]["weak_dice"] = float(dice(everything, items.masks).mean())
    return found


def pixels(images: np.ndarray) -> np.ndarray:
    """Return small copies of images `[n, C, *size]` as vectors."""
    dims = images.ndim - 2
    small = [resized(image, (_PIXELS[dims],) * dims) for image in images]
    return np.stack(small).reshape(len(images), -1)


def histogram(images: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the roots of the shares of each joint bin of intensities, `[n, bins]`.

    Roots make the distance that of Hellinger. Up to three channels have a joint histogram with 8
    bins each, between the 1st and 99th percentile of `reference`; more have one each.
    """
    channels = images.shape[1]
    sample = reference[:: max(1, len(reference) // 256)].astype(np.float32)
    low, high = np.percentile(np.moveaxis(sample, 1, 0).reshape(channels, -1), (1, 99), axis=1)
    shape = (1, -1) + (1,) * (images.ndim - 2)
    width = np.maximum(high - low, 1e-6).reshape(shape)
    level = ((images.astype(np.float32) - low.reshape(shape)) / width * _BINS).astype(np.int64)
    level = level.clip(0, _BINS - 1).reshape(len(images), channels, -1)
    groups = [level] if channels <= 3 else [level[:, c : c + 1] for c in range(channels)]
    counts = [_shares(group) for group in groups]
    return np.sqrt(np.concatenate(counts, axis=1))


def _shares(level: np.ndarray) -> np.ndarray:
    count, channels, places = level.shape
    code = sum(level[:, c] * _BINS**c for c in range(channels))
    bins = _BINS**channels
    flat = code + bins * np.arange(count)[:, None]
    return np.bincount(flat.ravel(), minlength=count * bins).reshape(count, bins) / places

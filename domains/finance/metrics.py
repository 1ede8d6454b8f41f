"""Scores of three-class forecasts, with intervals that know that labels overlap.

Definitions are scikit-learn's (the tests compare them), always over the three classes up,
stationary and down, so that a class that is missing in a short stretch counts as zero. Every
score is a function of sums over items, which is what lets one bootstrap serve them all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import pandas as pd

from domains.finance.resampling import interval, resampled_means
from shared_runtime.domain import Interval
from shared_runtime.errors import HeedError

CLASSES = ("up", "stationary", "down")
BINS = 15
_ROUNDING = 1e-12
_LEAST = float(np.finfo(np.float64).eps)
_BRIER, _LOG_LOSS, _ECE = 9, 10, 11


def classification_metrics(
    probability: np.ndarray,
    label: np.ndarray,
    series: np.ndarray | None = None,
    *,
    block: int,
    seed: int,
    resamples: int = 1000,
) -> dict[str, Interval]:
    """Return every score of `probability` against `label`, with 95 % intervals.

    `macro_f1`, `weighted_f1`, `mcc`, `accuracy`, `balanced_accuracy`, `log_loss`, `brier` (sum
    over the classes, 0 to 2), `ece` (of the predicted class, 15 bins of equal width), and
    `precision_`, `recall_` and `f1_` of `up`, `stationary` and `down`. Resampling raises the
    calibration error, whose bins it makes noisier, so `ece` has no interval.

    Args:
        probability: `[n, 3]`, in time order.
        label: classes `[n]`.
        series: integers `[n]`, the series of each item; one series where None.
        block: items drawn together by the bootstrap: at least `resampling.overlap`.
        seed: of the bootstrap.
        resamples: number of bootstrap samples; 0 gives no bounds.

    Raises:
        HeedError: a probability is not a finite number.
        ValueError: shapes disagree, or rows are not probabilities.
    """
    sums = item_sums(probability, label)
    series = np.zeros(len(label), dtype=np.int64) if series is None else series
    means = None
    if resamples and len(label) >= 2 * block:
        means = resampled_means(sums, series, block=block, seed=seed, resamples=resamples)
    found = {name: interval(score, sums, means) for name, score in SCORES.items()}
    return found | {"ece": Interval(found["ece"].value)}


def item_sums(probability: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Return what each item adds to the scores, `[n, 26]`.

    The confusion matrix (9, row by row: truth, then prediction), Brier score, log loss, and for
    each bin of confidence the confidence less one where the prediction was right (15).
    """
    probability = checked(probability, label)
    n = len(label)
    rows = np.arange(n)
    predicted = probability.argmax(axis=1)
    sums = np.zeros((n, _ECE + BINS))
    sums[rows, 3 * label.astype(np.int64) + predicted] = 1
    truth = np.eye(3)[label]
    sums[:, _BRIER] = ((probability - truth) ** 2).sum(axis=1)
    sums[:, _LOG_LOSS] = -np.log(np.clip(probability[rows, label], _LEAST, 1.0))
    confidence = probability[rows, predicted]
    sums[rows, _ECE + _bin(confidence)] = confidence - (predicted == label)
    return sums


def checked(probability: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Return `probability` as float64 `[n, 3]`, or raise."""
    probability = np.asarray(probability, dtype=np.float64)
    if probability.ndim != 2 or probability.shape != (len(label), 3) or len(label) == 0:
        raise ValueError(
            f"finance metrics: expected probability [n, 3] and label [n] with n >= 1, got "
            f"{probability.shape} and {np.shape(label)}"
        )
    if label.min() < 0 or label.max() > 2:
        raise ValueError(
            f"finance metrics: expected labels 0, 1 and 2, got {int(label.min())} to "
            f"{int(label.max())}"
        )
    broken = ~np.isfinite(probability).all(axis=1)
    if broken.any():
        raise HeedError(
            f"window {int(broken.argmax())}: the forecast is not finite ({int(broken.sum())} such "
            "windows); train with a lower training.learning_rate or in float32"
        )
    off = np.abs(probability.sum(axis=1) - 1) > 1e-3
    if off.any() or probability.min() < 0:
        row = int(off.argmax() if off.any() else probability.min(axis=1).argmin())
        raise ValueError(
            f"finance metrics: row {row} of probability is {probability[row]}, expected three "
            "probabilities with sum 1"
        )
    return probability


def confusion(probability: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Return counts `[3, 3]`, truth by prediction."""
    predicted = checked(probability, label).argmax(axis=1)
    pairs = 3 * label.astype(np.int64) + predicted
    return np.bincount(pairs, minlength=9).reshape(3, 3)


def reliability_table(probability: np.ndarray, label: np.ndarray, bins: int = 10) -> pd.DataFrame:
    """Return how often the predicted class came true, by the confidence it was given.

    Columns: `from`, `to`, `items`, `confidence` (mean), `accuracy`. Empty bins are left out.
    """
    probability = checked(probability, label)
    confidence = probability.max(axis=1)
    right = probability.argmax(axis=1) == label
    place = _bin(confidence, bins)
    count = np.bincount(place, minlength=bins)
    total = np.maximum(count, 1)
    table = pd.DataFrame(
        {
            "from": np.arange(bins) / bins,
            "to": np.arange(1, bins + 1) / bins,
            "items": count,
            "confidence": np.bincount(place, confidence, minlength=bins) / total,
            "accuracy": np.bincount(place, right, minlength=bins) / total,
        }
    )
    return table[count > 0].reset_index(drop=True)


def class_table(metrics: Mapping[str, Interval], label: np.ndarray) -> pd.DataFrame:
    """Return precision, recall, F1 and share of each class, one row per class."""
    shares = np.bincount(label, minlength=3) / len(label)
    rows = [
        {"class": name, "share": share}
        | {score: metrics[f"{score}_{name}"].value for score in ("precision", "recall", "f1")}
        for name, share in zip(CLASSES, shares, strict=True)
    ]
    return pd.DataFrame(rows)


def accuracy(sums: np.ndarray) -> np.ndarray:
    """Share of right predictions; `sums` `[..., K]`, the first nine the confusion matrix."""
    counts = _counts(sums)
    return _ratio(np.trace(counts, axis1=-2, axis2=-1), counts.sum((-2, -1)))


def class_score(sums: np.ndarray, *, score: str, number: int) -> np.ndarray:
    """Precision, recall or F1 of one class; 0 where it is not defined."""
    counts = _counts(sums)
    right = counts[..., number, number]
    real, predicted = counts[..., number, :].sum(-1), counts[..., :, number].sum(-1)
    if score == "precision":
        return _ratio(right, predicted)
    if score == "recall":
        return _ratio(right, real)
    return _ratio(2 * right, real + predicted)


def macro_f1(sums: np.ndarray) -> np.ndarray:
    """Mean of the three F1 scores."""
    return np.mean([class_score(sums, score="f1", number=c) for c in range(3)], axis=0)


def weighted_f1(sums: np.ndarray) -> np.ndarray:
    """Mean of the three F1 scores, by the true share of each class."""
    share = _ratio(_counts(sums).sum(-1), _counts(sums).sum((-2, -1))[..., None])
    scores = np.stack([class_score(sums, score="f1", number=c) for c in range(3)], axis=-1)
    return (share * scores).sum(-1)


def balanced_accuracy(sums: np.ndarray) -> np.ndarray:
    """Mean recall of the classes that occur."""
    occurs = _counts(sums).sum(-1) > 0
    recall = np.stack([class_score(sums, score="recall", number=c) for c in range(3)], axis=-1)
    return _ratio((recall * occurs).sum(-1), occurs.sum(-1).astype(np.float64))


def mcc(sums: np.ndarray) -> np.ndarray:
    """Matthews correlation coefficient of three classes (Gorodkin 2004); 0 where undefined."""
    counts = _counts(sums)
    total = counts.sum((-2, -1))
    real, predicted = counts.sum(-1), counts.sum(-2)
    covariance = np.trace(counts, axis1=-2, axis2=-1) * total - (real * predicted).sum(-1)
    spread = (total**2 - (predicted**2).sum(-1)) * (total**2 - (real**2).sum(-1))
    defined = spread > _ROUNDING * total**4
    return _ratio(covariance, np.sqrt(np.where(defined, spread, 0.0)))


def _brier(sums: np.ndarray) -> np.ndarray:
    return _ratio(sums[..., _BRIER], sums[..., :9].sum(-1))


def _log_loss(sums: np.ndarray) -> np.ndarray:
    return _ratio(sums[..., _LOG_LOSS], sums[..., :9].sum(-1))


def _ece(sums: np.ndarray) -> np.ndarray:
    return _ratio(np.abs(sums[..., _ECE:]).sum(-1), sums[..., :9].sum(-1))


SCORES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "macro_f1": macro_f1,
    "weighted_f1": weighted_f1,
    "mcc": mcc,
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "log_loss": _log_loss,
    "brier": _brier,
    "ece": _ece,
} | {
    f"{score}_{name}": partial(class_score, score=score, number=number)
    for number, name in enumerate(CLASSES)
    for score in ("precision", "recall", "f1")
}
"""Scores by name, as functions of `item_sums`."""


def _counts(sums: np.ndarray) -> np.ndarray:
    return sums[..., :9].reshape(*sums.shape[:-1], 3, 3)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.zeros(np.shape(above)), where=below > 0)


def _bin(confidence: np.ndarray, bins: int = BINS) -> np.ndarray:
    return np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)

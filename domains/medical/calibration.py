"""Whether probabilities mean what they say, and whether uncertainty points at the errors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import ndimage

BINS = 15
MARGIN = 10.0
"""Millimetres around the foreground within which calibration is scored."""


def calibration_scores(
    probability: np.ndarray,
    truth: np.ndarray,
    spacing: Sequence[float],
    *,
    prediction: np.ndarray | None = None,
    uncertainty: np.ndarray | None = None,
    margin: float | None = MARGIN,
) -> dict[str, float]:
    """Return `ece`, and with an uncertainty `uncertainty_auroc` and `uncertainty_aurc`, of a case.

    Only voxels in the box around the foreground of truth and prediction, grown by `margin`, are
    scored: background far from everything is right and certain, and its share of an image would
    decide the scores. Without any foreground all voxels are.

    Args:
        probability: of the foreground (one minus that of the background), `[*grid]`.
        truth: class indices or bool `[*grid]`; above 0 is foreground.
        spacing: mm along each axis.
        prediction: class indices `[*grid]`; None takes foreground from 0.5 on. With it, confusing
            two classes of foreground is an error too.
        uncertainty: of each voxel `[*grid]`, any scale.
        margin: mm; None scores the whole image.
    """
    predicted = probability >= 0.5 if prediction is None else prediction
    wrong = (predicted > 0) != (truth > 0) if prediction is None else predicted != truth
    box = foreground_box((predicted > 0) | (truth > 0), spacing, margin)
    scores = {"ece": expected_calibration_error(probability[box], truth[box] > 0)}
    if uncertainty is not None:
        auroc, aurc = error_detection(uncertainty[box], wrong[box])
        scores |= {"uncertainty_auroc": auroc, "uncertainty_aurc": aurc}
    return scores


def foreground_box(
    foreground: np.ndarray, spacing: Sequence[float], margin: float | None
) -> tuple[slice, ...]:
    """Return the box around a boolean mask, grown by `margin` mm; the whole image without one."""
    found = ndimage.find_objects(foreground.astype(np.uint8))
    if margin is None or not found:
        return (slice(None),) * foreground.ndim
    steps = [int(np.ceil(margin / s)) for s in spacing]
    return tuple(
        slice(max(0, side.start - step), side.stop + step)
        for side, step in zip(found[0], steps, strict=True)
    )


def expected_calibration_error(
    probability: np.ndarray, truth: np.ndarray, bins: int = BINS
) -> float:
    """Return the mean gap between foreground probability and how often foreground is there.

    Guo et al. 2017, "On calibration of modern neural networks", equation 3, for the event
    "foreground" rather than for the predicted class: bins of equal width, weighted by voxels.
    """
    table = reliability_table(probability, truth, bins)
    gap = (table["probability"] - table["frequency"]).abs()
    return float((gap * table["voxels"]).sum() / table["voxels"].sum())


def reliability_table(probability: np.ndarray, truth: np.ndarray, bins: int = BINS) -> pd.DataFrame:
    """Return how often foreground was there, by the probability it was given.

    Columns: `from`, `to`, `voxels`, `probability` (mean), `frequency`. Empty bins are left out.
    Tables of several cases can be added up: see `pooled_reliability`.
    """
    place = np.clip((probability * bins).astype(np.int64), 0, bins - 1).ravel()
    count = np.bincount(place, minlength=bins)
    total = np.maximum(count, 1)
    given = np.bincount(place, probability.ravel().astype(np.float64), minlength=bins)
    table = pd.DataFrame(
        {
            "from": np.arange(bins) / bins,
            "to": np.arange(1, bins + 1) / bins,
            "voxels": count,
            "probability": given / total,
            "frequency": np.bincount(place, truth.ravel() > 0, minlength=bins) / total,
        }
    )
    return table[count > 0].reset_index(drop=True)


def pooled_reliability(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Add up the reliability tables of several cases, every voxel counting once."""
    rows = pd.concat(tables, ignore_index=True)
    for name in ("probability", "frequency"):
        rows[name] *= rows["voxels"]
    summed = rows.groupby(["from", "to"], as_index=False).sum()
    for name in ("probability", "frequency"):
        summed[name] /= summed["voxels"]
    return summed


def error_detection(uncertainty: np.ndarray, wrong: np.ndarray) -> tuple[float, float]:
    """Return how well uncertainty finds the wrong voxels: AUROC, and AURC.

    AUROC is the chance that a wrong voxel is more uncertain than a right one (ties count half);
    NaN where all are right or all wrong. AURC, the area under the risk-coverage curve (Geifman,
    Uziel and El-Yaniv 2019, "Bias-reduced uncertainty estimation for deep neural classifiers"), is
    the mean over all coverages of the error rate among the least uncertain voxels; lower is
    better, and voxels of equal uncertainty are taken in random order.
    """
    _, risk, starts, ends, errors = _by_uncertainty(uncertainty.ravel(), wrong.ravel())
    n, total = len(risk), float(errors.sum())
    right = (ends - starts) - errors
    before = np.concatenate([[0.0], np.cumsum(right)[:-1]])
    pairs = total * (n - total)
    auroc = float((errors * (before + right / 2)).sum() / pairs) if pairs else float("nan")
    return auroc, float(risk.mean())


def risk_coverage(
    uncertainty: np.ndarray, wrong: np.ndarray, points: int = 101
) -> tuple[np.ndarray, np.ndarray]:
    """Return coverages and the error rate among as many least uncertain voxels, `[points]` each."""
    coverage, risk, *_ = _by_uncertainty(uncertainty.ravel(), wrong.ravel())
    kept = np.unique(np.linspace(0, len(risk) - 1, points).astype(np.int64))
    return coverage[kept], risk[kept]


def _by_uncertainty(
    uncertainty: np.ndarray, wrong: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Sort by uncertainty: coverage and risk `[n]`; start, end and errors of runs of equals."""
    order = np.argsort(uncertainty, kind="stable")
    values, found = uncertainty[order], wrong[order]
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    ends = np.append(starts[1:], len(values))
    errors = np.add.reduceat(found.astype(np.float64), starts)
    rank = np.arange(1, len(values) + 1)
    knots, totals = np.append(0, ends), np.append(0.0, np.cumsum(errors))
    return rank / len(rank), np.interp(rank, knots, totals) / rank, starts, ends, errors

"""Scores of one predicted mask against the truth, in millimetres.

Empty masks: where neither the prediction nor the truth has a label, there is no score (NaN, and
`present` says "neither"; the tables count such cases). Where only one of them has it, Dice, IoU and
surface Dice are 0, the distances are the diagonal of the image and `volume_error` is 1, so that no
average can be improved by predicting nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from domains.medical.lesions import OVERLAP, match_lesions
from domains.medical.surfaces import surface_distances
from shared_runtime.errors import DataError

SCORES = ("dice", "iou", "hd95", "assd", "nsd", "volume_error")
"""What is averaged over cases, in the order of tables."""
LESION_SCORES = ("lesion_recall", "lesion_precision", "lesion_f1", "lesion_dice")
BEST: Mapping[str, float] = {
    **dict.fromkeys(("dice", "iou", "nsd", *LESION_SCORES), 1.0),
    **dict.fromkeys(("hd95", "assd", "volume_error"), 0.0),
}
"""The value of each score where prediction and truth are the same."""
EMPTY_LABELS = (
    "A label that neither prediction nor truth has is not scored, but counted; one that only one "
    "of them has scores Dice 0 and, as its distances, the diagonal of the image."
)
_UNITS: Mapping[int, tuple[str, float]] = {2: ("cm2", 100.0), 3: ("ml", 1000.0)}


def score_case(
    case: str,
    prediction: np.ndarray,
    truth: np.ndarray,
    spacing: Sequence[float],
    labels: Mapping[str, int],
    tolerance: float = 1.0,
    lesions: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Score every foreground label of a case.

    Args:
        case: its id.
        prediction: class indices `[*grid]`, integers.
        truth: class indices `[*grid]`, integers.
        spacing: mm between neighbours along each axis of the arrays.
        labels: name to class index; index 0, the background, is not scored.
        tolerance: mm that surfaces may differ in `nsd`.
        lesions: labels whose components are also scored one by one.

    Returns:
        A row for each label: `case, label`, `present` ("both", "truth", "prediction" or
        "neither"), `dice, iou` (shares), `hd95, assd` (mm), `nsd` (share), `volume_error`
        (|predicted - true| / true), `volume, volume_predicted, volume_difference` (predicted -
        true) in `unit` (ml; in 2-D cm2), the counts `tp, fp, fn, tn` of voxels, and for `lesions`
        what `Lesions.scores` gives.

    Raises:
        DataError: shapes differ, or one of the masks does not hold integers.
    """
    prediction, truth = np.asarray(prediction), np.asarray(truth)
    if prediction.shape != truth.shape or len(spacing) != truth.ndim:
        raise DataError(
            f"{case}: the mask has shape {prediction.shape} and spacing {tuple(spacing)}, the "
            f"truth {truth.shape}; predict on the grid of the image that the truth belongs to"
        )
    if not all(np.issubdtype(mask.dtype, np.integer) for mask in (prediction, truth)):
        raise DataError(
            f"{case}: expected masks of integers, got {prediction.dtype}, {truth.dtype}"
        )
    most = max(labels.values())
    boxes = [_boxes(mask, most) for mask in (prediction, truth)]
    rows = []
    for label, index in labels.items():
        if index == 0:
            continue
        box = _union(*(found[index - 1] for found in boxes))
        ours, theirs = prediction[box] == index, truth[box] == index
        row = {"case": case, "label": label} | _scores(
            ours, theirs, spacing, truth.shape, tolerance
        )
        if label in lesions:
            row |= match_lesions(ours, theirs, OVERLAP).scores()
        rows.append(row)
    return rows


def mask_scores(
    prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float], tolerance: float = 1.0
) -> dict[str, Any]:
    """Score one boolean mask `[*grid]`; what `score_case` says of a label."""
    (row,) = score_case(
        "mask",
        prediction.astype(np.uint8),
        truth.astype(np.uint8),
        spacing,
        {"mask": 1},
        tolerance,
    )
    return {name: value for name, value in row.items() if name not in ("case", "label")}


def _boxes(mask: np.ndarray, most: int) -> list[tuple[slice, ...] | None]:
    found = ndimage.find_objects(mask, max_label=most)
    return [*found, *[None] * (most - len(found))]


def _union(one: tuple[slice, ...] | None, other: tuple[slice, ...] | None) -> tuple[slice, ...]:
    """Return the smallest box around two; an empty one where there are none."""
    given = [box for box in (one, other) if box is not None]
    if not given:
        return (slice(0, 0),)
    return tuple(
        slice(min(side.start for side in sides), max(side.stop for side in sides))
        for sides in zip(*given, strict=True)
    )


def _scores(
    ours: np.ndarray,
    theirs: np.ndarray,
    spacing: Sequence[float],
    shape: tuple[int, ...],
    tolerance: float,
) -> dict[str, Any]:
    predicted, true = int(np.count_nonzero(ours)), int(np.count_nonzero(theirs))
    both = int(np.count_nonzero(ours & theirs))
    unit, per_unit = _UNITS[len(shape)]
    scores: tuple[float, ...]
    voxel = math.prod(float(s) for s in spacing) / per_unit
    if predicted and true:
        distances = surface_distances(ours, theirs, spacing)
        scores = (
            2 * both / (predicted + true),
            both / (predicted + true - both),
            distances.hd95,
            distances.assd,
            distances.nsd(tolerance),
            abs(predicted - true) / true,
        )
    elif predicted or true:
        diagonal = math.hypot(*(n * float(s) for n, s in zip(shape, spacing, strict=True)))
        scores = (0.0, 0.0, diagonal, diagonal, 0.0, 1.0)
    else:
        scores = (math.nan,) * len(SCORES)
    present = {(True, True): "both", (True, False): "prediction", (False, True): "truth"}
    return {
        "present": present.get((predicted > 0, true > 0), "neither"),
        **dict(zip(SCORES, scores, strict=True)),
        "volume": true * voxel,
        "volume_predicted": predicted * voxel,
        "volume_difference": (predicted - true) * voxel,
        "unit": unit,
        "tp": both,
        "fp": predicted - both,
        "fn": true - both,
        "tn": math.prod(shape) - predicted - true + both,
    }

"""Lesions scored one by one: which were found, and how well each was outlined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

OVERLAP = 0.1
"""Least intersection over union of a predicted lesion with the one it stands for, as in PI-CAI."""
CRITERION = (
    "lesions are components that touch at faces, edges or corners; one is found where a predicted "
    f"one has an intersection over union of at least {OVERLAP} with it, each used once"
)


@dataclass(frozen=True)
class Lesions:
    """The components of a prediction and of the truth, and which belong together.

    Args:
        truth: voxels of each lesion of the truth, int64 `[n]`.
        predicted: voxels of each predicted lesion, int64 `[m]`.
        match: index of the predicted lesion that belongs to each of the truth, -1 for none, `[n]`.
        dice: Dice of each lesion of the truth with its match, 0 where it was missed, `[n]`.
    """

    truth: np.ndarray
    predicted: np.ndarray
    match: np.ndarray
    dice: np.ndarray

    @property
    def found(self) -> int:
        """Lesions of the truth that have a match."""
        return int(np.count_nonzero(self.match >= 0))

    def scores(self) -> dict[str, float]:
        """Return `lesion_recall, lesion_precision, lesion_f1, lesion_dice` and the three counts.

        Without any lesion in the truth there is nothing to find: recall and Dice are NaN, and so
        are precision and F1 unless something was predicted, which makes them 0. A prediction
        without lesions where there are some has precision 0, so that no average can be improved by
        predicting nothing. `lesion_dice` is the mean over all lesions of the truth.
        """
        n, m, found = len(self.truth), len(self.predicted), self.found
        nothing = n + m == 0
        return {
            "lesion_recall": found / n if n else np.nan,
            "lesion_precision": np.nan if nothing else found / m if m else 0.0,
            "lesion_f1": np.nan if nothing else 2 * found / (n + m),
            "lesion_dice": float(self.dice.mean()) if n else np.nan,
            "lesions_true": n,
            "lesions_predicted": m,
            "lesions_found": found,
        }

    def table(self, spacing: Sequence[float]) -> pd.DataFrame:
        """Return one row per lesion of the truth: `lesion, mm, found, dice`.

        `mm` is the diameter of a ball (2-D: disc) as large as the lesion.
        """
        dims = len(spacing)
        size = self.truth * float(np.prod(spacing))
        mm = (6 * size / np.pi) ** (1 / 3) if dims == 3 else 2 * np.sqrt(size / np.pi)
        number = np.arange(1, len(self.truth) + 1)
        return pd.DataFrame(
            {"lesion": number, "mm": mm, "found": self.match >= 0, "dice": self.dice}
        )


def match_lesions(prediction: np.ndarray, truth: np.ndarray, overlap: float = OVERLAP) -> Lesions:
    """Pair the components of two boolean masks of one shape.

    Each lesion belongs to at most one of the other mask; among all such pairings with an
    intersection over union of at least `overlap`, the one with the largest sum of them is taken. A
    prediction that joins two lesions therefore finds one of them.

    Args:
        prediction: bool `[*grid]`.
        truth: bool `[*grid]`.
        overlap: least intersection over union of a pair, above 0.
    """
    whole = np.ones((3,) * truth.ndim, dtype=bool)
    theirs, n = ndimage.label(truth, structure=whole)
    ours, m = ndimage.label(prediction, structure=whole)
    true_size = np.bincount(theirs.ravel(), minlength=n + 1)[1:]
    our_size = np.bincount(ours.ravel(), minlength=m + 1)[1:]
    both = prediction & truth
    pairs, shared = np.unique(
        np.stack([theirs[both], ours[both]]).astype(np.int64) - 1, axis=1, return_counts=True
    )
    rows, columns = pairs
    union = true_size[rows] + our_size[columns] - shared
    match, dice = np.full(n, -1), np.zeros(n)
    near = shared / union >= overlap
    rows, columns, shared, union = rows[near], columns[near], shared[near], union[near]
    if len(rows):
        which_rows, row = np.unique(rows, return_inverse=True)
        which_columns, column = np.unique(columns, return_inverse=True)
        iou = np.zeros((len(which_rows), len(which_columns)))
        iou[row, column] = shared / union
        for a, b in zip(*linear_sum_assignment(iou, maximize=True), strict=True):
            if iou[a, b] > 0:
                match[which_rows[a]] = which_columns[b]
                dice[which_rows[a]] = 2 * iou[a, b] / (1 + iou[a, b])
    return Lesions(true_size, our_size, match, dice)

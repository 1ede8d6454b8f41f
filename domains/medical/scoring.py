"""From the rows of every case to tables, means with intervals over patients, and comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from domains.medical.metrics import BEST, LESION_SCORES, SCORES
from shared_runtime.domain import Interval
from shared_runtime.errors import DataError
from shared_runtime.intervals import mean_interval

Rows = Sequence[Mapping[str, Any]]
_CALIBRATION = ("ece", "uncertainty_auroc", "uncertainty_aurc")


def table(rows: Rows, patients: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Return the rows of `metrics.score_case` as the per-case CSV, with `patient` second.

    Args:
        rows: of all cases, one per case and label.
        patients: patient of each case; None makes every case a patient of its own.

    Raises:
        DataError: there are no rows, or a case and label came twice.
    """
    frame = pd.DataFrame(list(rows))
    if frame.empty:
        raise DataError("scores: no case was scored; the part that is scored has no labelled case")
    twice = frame.duplicated(["case", "label"])
    if twice.any():
        first = frame[twice].iloc[0]
        raise DataError(
            f"{first['case']}: label {first['label']} is scored twice; cases need distinct ids"
        )
    named = frame["case"] if patients is None else frame["case"].map(dict(patients))
    if named.isna().any():
        raise DataError(f"{frame['case'][named.isna()].iloc[0]}: no patient is known for this case")
    frame.insert(1, "patient", named)
    return frame


def summarise(
    rows: Rows, patients: Mapping[str, str] | None = None, *, seed: int, resamples: int = 1000
) -> dict[str, Interval]:
    """Return each score over all cases with a 95 % bootstrap interval over patients.

    `dice_<label>`: the mean over a patient's cases that have a score, then over patients, so that
    a patient with many scans counts once. `dice`: the mean of the labels' values, as nnU-Net's
    `foreground_mean`; with one scan each and no empty label both are nnU-Net's numbers. The same
    for the other scores, for those of lesions, and for the calibration where rows have it. Patients
    are resampled, with all their scans and labels together. `unscored` counts pairs of case and
    label that neither prediction nor truth has.

    Args:
        rows: of all cases, one per case and label.
        patients: patient of each case; None makes every case a patient of its own.
        seed: of the bootstrap.
        resamples: number of bootstrap samples.
    """
    frame = table(rows, patients)
    found: dict[str, Interval] = {}
    each: dict[str, Interval] = {}
    for score in (*SCORES, *LESION_SCORES, *_CALIBRATION):
        if score not in frame or frame[score].isna().all():
            continue
        by_label = _by_patient(frame, score)
        found[score] = _interval(by_label, seed, resamples)
        if score in _CALIBRATION:
            continue
        for label in by_label:
            each[f"{score}_{label}"] = _interval(by_label[[label]], seed, resamples)
    unscored = int((frame["present"] == "neither").sum())
    return found | each | {"unscored": Interval(float(unscored))}


def counts(rows: Rows) -> pd.DataFrame:
    """Return how many cases each label is in: a row per label.

    Columns: `label, cases, scored` (in the truth or the prediction), `missed` (only in the truth),
    `invented` (only in the prediction), `unscored` (in neither).
    """
    frame = table(rows)
    kinds = pd.crosstab(frame["label"], frame["present"]).reindex(
        index=frame["label"].unique(),
        columns=["both", "truth", "prediction", "neither"],
        fill_value=0,
    )
    scored = kinds[["both", "truth", "prediction"]].sum(axis=1)
    return pd.DataFrame(
        {
            "label": kinds.index,
            "cases": kinds.sum(axis=1).to_numpy(),
            "scored": scored.to_numpy(),
            "missed": kinds["truth"].to_numpy(),
            "invented": kinds["prediction"].to_numpy(),
            "unscored": kinds["neither"].to_numpy(),
        }
    )


def pooled(rows: Rows) -> dict[str, float]:
    """Return scores over the voxels of all cases together, as some papers on skin lesions do.

    `pooled_dice, pooled_iou, pooled_sensitivity, pooled_specificity, pooled_accuracy`, each the
    mean over labels of a score of the summed `tp, fp, fn, tn`. Large objects decide them and a
    missed small one hardly counts: they compare with papers that pool, not with `dice`.
    """
    frame = table(rows)
    summed = frame.groupby("label", sort=False)[["tp", "fp", "fn", "tn"]].sum()
    tp, fp, fn, tn = (summed[name].to_numpy(dtype=np.float64) for name in summed)
    shares = {
        "dice": (2 * tp, 2 * tp + fp + fn),
        "iou": (tp, tp + fp + fn),
        "sensitivity": (tp, tp + fn),
        "specificity": (tn, tn + fp),
        "accuracy": (tp + tn, tp + fp + fn + tn),
    }
    found = {}
    for name, (part, whole) in shares.items():
        defined = whole > 0
        share = part[defined] / whole[defined]
        found[f"pooled_{name}"] = float(share.mean()) if defined.any() else float("nan")
    return found


def paired(
    rows_a: Rows,
    rows_b: Rows,
    patients: Mapping[str, str] | None = None,
    *,
    seed: int,
    resamples: int = 1000,
) -> pd.DataFrame:
    """Compare two models over the same cases: mean differences a - b, intervals over patients.

    A label that neither the truth nor one of the models has is not scored for that model; where
    the other model invented it, the first counts as perfect there, so that inventing costs. Pairs
    that neither model has a score for are left out.

    Args:
        rows_a: of the first model, one per case and label.
        rows_b: of the second.
        patients: patient of each case; None makes every case a patient of its own.
        seed: of the bootstrap.
        resamples: number of bootstrap samples.

    Returns:
        Columns `metric` (such as `dice` and `dice_<label>`), `a, b` (means over the pairs),
        `difference, ci_low, ci_high` (95 %; None for one patient), `better` (share of patients
        where a is strictly better), `patients`.

    Raises:
        DataError: the cases or labels of the two differ.
    """
    first, second = (
        table(rows, patients).set_index(["case", "label"]) for rows in (rows_a, rows_b)
    )
    odd = first.index.symmetric_difference(second.index)
    if len(odd):
        raise DataError(
            f"{odd[0][0]}: label {odd[0][1]} is scored for one model only; compare two models over "
            "the same cases"
        )
    second = second.loc[first.index]
    lines = []
    for score in (*SCORES, *LESION_SCORES):
        if score not in first or score not in second:
            continue
        a, b = first[score], second[score]
        only = a.isna() ^ b.isna()
        a, b = (x.mask(x.isna() & only, BEST[score]) for x in (a, b))
        both = pd.DataFrame({"patient": first["patient"], "a": a, "b": b}).reset_index()
        both["difference"] = both["a"] - both["b"]
        if both["difference"].isna().all():
            continue
        by = {name: _by_patient(both, name) for name in ("a", "b", "difference")}
        labels = list(by["difference"])
        for name, chosen in ((score, labels), *((f"{score}_{x}", [x]) for x in labels)):
            difference = by["difference"][chosen]
            interval = _interval(difference, seed, resamples)
            better = difference.mean(axis=1).dropna() * (1 if BEST[score] else -1) > 0
            lines.append(
                {
                    "metric": name,
                    "a": float(by["a"][chosen].mean().mean()),
                    "b": float(by["b"][chosen].mean().mean()),
                    "difference": interval.value,
                    "ci_low": interval.ci_low,
                    "ci_high": interval.ci_high,
                    "better": float(better.mean()),
                    "patients": len(better),
                }
            )
    return pd.DataFrame(lines)


def _by_patient(frame: pd.DataFrame, score: str) -> pd.DataFrame:
    """Return each patient's mean `[patient, label]`, NaN where a label has no score."""
    means = frame.groupby(["patient", "label"], sort=False)[score].mean().unstack()
    kept = [label for label in frame["label"].unique() if means[label].notna().any()]
    return means[kept].dropna(how="all")


def _interval(by_label: pd.DataFrame, seed: int, resamples: int) -> Interval:
    """Bootstrap the mean over labels of the means over patients.

    Where a patient lacks a label, that mean is a ratio; what the patient adds to it to first order
    (its influence) is resampled in place of it, which leaves complete tables as they are.
    """
    values = by_label.to_numpy(dtype=np.float64)
    means = np.nanmean(values, axis=0)
    share = np.isfinite(values).mean(axis=0)
    influence = np.nan_to_num((values - means) / share)
    return mean_interval(means.mean() + influence.mean(axis=1), seed=seed, resamples=resamples)

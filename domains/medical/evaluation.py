"""Score a trained model on whole cases, beside what it has to beat, with pictures."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from domains.medical.baselines import fit_baselines
from domains.medical.calibration import (
    calibration_scores,
    pooled_reliability,
    reliability_table,
)
from domains.medical.data.case import Case, Scan
from domains.medical.data.preprocessing import canonical, orientation
from domains.medical.ensemble import load_ensemble
from domains.medical.figures import CaseView, error_figure, overlay_figure
from domains.medical.metrics import EMPTY_LABELS, score_case
from domains.medical.models.registry import MODELS
from domains.medical.prediction import Predicted, predict_scan
from domains.medical.preparation import Part
from domains.medical.score_figures import (
    calibration_figure,
    dice_figure,
    typical_cases,
    volume_figure,
)
from domains.medical.scoring import counts, summarise, table
from domains.medical.uncertainty import has_evidence
from shared_runtime.domain import Evaluation, LoadedModel, Prepared
from shared_runtime.errors import DataError

SHOWN = ("dice", "iou", "hd95", "assd", "nsd", "volume_error", "ece", "uncertainty_auroc")
MOST_TRAINING_CASES = 100
"""Training cases that baselines are fitted on, spread evenly over the part."""


def evaluate(
    loaded: LoadedModel,
    prepared: Prepared,
    split: str,
    *,
    batch_size: int,
    device: torch.device,
    seed: int,
) -> Evaluation:
    """Predict and score every case of `split` on its own grid.

    Where there is an uncertainty (of the model itself or of several that are averaged),
    calibration is scored too.

    Raises:
        DataError: the part has no cases, or one cannot be read.
    """
    part = part_of(prepared, split)
    plan, config = part.source.plan, part.source.config
    scored = set(part.patients.values())
    models = load_ensemble(loaded, config, MODELS, device, scored=scored)
    unsure = len(models) > 1 or has_evidence([loaded.model])
    segment = partial(
        predict_scan,
        models,
        plan=plan,
        config=dataclasses.replace(config, uncertainty=unsure or config.uncertainty),
        batch_size=batch_size,
        device=device,
        keep_probabilities=unsure,
    )
    rows: list[dict[str, Any]] = []
    reliability: list[pd.DataFrame] = []
    for case, scan, truth in part.scans():
        found = segment(scan)
        extra: dict[str, float] = {}
        if found.probabilities is not None:
            extra, table_of_bins = _calibration(found, scan, truth)
            reliability.append(table_of_bins)
        rows += [{**row, **extra} for row in _scored(case, found.mask, truth, scan, part)]
    chosen = typical_cases(rows)
    views = {
        name: _view(case, scan, truth, segment(scan), rows)
        for case, scan, truth in Part(
            tuple(c for c in part.cases if c.id in chosen.values()), part.source
        ).scans()
        for name, id in chosen.items()
        if id == case.id
    }
    views = {name: views[name] for name in chosen}
    figures = [overlay_figure(views, plan.labels)] if views else []
    figures += [error_figure(views["worst"])] if "worst" in views else []
    figures += [dice_figure(rows), volume_figure(rows)]
    figures += [calibration_figure(pooled_reliability(reliability))] if reliability else []
    metrics = summarise(rows, part.patients, seed=seed)
    return Evaluation(
        metrics=metrics,
        n_scored=len(part.cases),
        predictions=table(rows, part.patients),
        figures=figures,
        tables={"Cases of each label": counts(rows)},
        text=EMPTY_LABELS,
        shown=[name for name in SHOWN if name in metrics],
    )


def baselines(prepared: Prepared, split: str) -> dict[str, dict[str, float]]:
    """Score masks made without a network on the same cases.

    There are none where the data are not those the model was trained on: they are fitted there.
    """
    part, train = part_of(prepared, split), prepared.train
    assert isinstance(train, Part)
    if not train.cases:
        return {}
    plan = part.source.plan
    step = max(1, len(train.cases) // MOST_TRAINING_CASES)
    chosen = Part(train.cases[::step], train.source)
    fitted = fit_baselines(
        (_turned(scan, truth) for _, scan, truth in chosen.scans()), plan.classes
    )
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in fitted}
    for case, scan, truth in part.scans():
        image, label = _turned(scan, truth)
        for name, baseline in fitted.items():
            rows[name] += _scored(case, baseline(image), label, scan, part, turned=True)
    return {
        name: {
            metric: interval.value
            for metric, interval in summarise(scored, part.patients, seed=0, resamples=2).items()
        }
        for name, scored in rows.items()
    }


def part_of(prepared: Prepared, split: str) -> Part:
    """Return the cases of a part.

    Raises:
        DataError: there are none.
    """
    part = getattr(prepared, split)
    assert isinstance(part, Part)
    if not part.cases:
        raise DataError(f"the {split} part has no cases; use more data")
    return part


def _turned(scan: Scan, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    axes, flips = orientation(scan.grid, scan.source)
    return canonical(scan.array, axes, flips), canonical(label, axes, flips)


def _scored(
    case: Case,
    mask: np.ndarray,
    truth: np.ndarray,
    scan: Scan,
    part: Part,
    *,
    turned: bool = False,
) -> list[dict[str, Any]]:
    spacing = scan.grid.spacing
    if turned:
        axes, _ = orientation(scan.grid, scan.source)
        spacing = tuple(spacing[axis] for axis in axes)
    config = part.source.config
    labels = part.source.plan.labels
    return score_case(case.id, mask, truth, spacing, labels, config.tolerance, config.lesions)


def _calibration(
    found: Predicted, scan: Scan, truth: np.ndarray
) -> tuple[dict[str, float], pd.DataFrame]:
    assert found.probabilities is not None
    foreground = 1 - found.probabilities[0]
    scores = calibration_scores(
        foreground,
        truth,
        scan.grid.spacing,
        prediction=found.mask,
        uncertainty=found.maps["uncertainty"],
    )
    return scores, reliability_table(foreground, truth > 0)


def _view(
    case: Case, scan: Scan, truth: np.ndarray, found: Predicted, rows: list[dict[str, Any]]
) -> CaseView:
    dice = [row["dice"] for row in rows if row["case"] == case.id]
    return CaseView(
        case.id,
        scan.array,
        found.mask,
        truth,
        scan.grid,
        found.maps.get("uncertainty"),
        f"Dice {np.nanmean(dice):.3f}",
    )

"""Score a trained model on whole cases, beside what it has to beat, with pictures."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from domains.medical.baselines import fit_baselines
from domains.medical.calibration import calibration_scores
from domains.medical.data.case import Scan
from domains.medical.data.preprocessing import canonical, orientation
from domains.medical.ensemble import load_ensemble
from domains.medical.metrics import EMPTY_LABELS, score_case
from domains.medical.models.registry import MODELS
from domains.medical.prediction import Predicted, predict_scan
from domains.medical.preparation import Part
from domains.medical.scoring import counts, summarise, table
from shared_runtime.domain import Evaluation, LoadedModel, Prepared
from shared_runtime.errors import DataError

SHOWN = ("dice", "iou", "hd95", "assd", "nsd", "volume_error")
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

    Raises:
        DataError: the part has no cases, or one cannot be read.
    """
    part = part_of(prepared, split)
    config, plan = part.source.config, part.source.plan
    models = load_ensemble(loaded, config, MODELS, device)
    certain = len(models) == 1 and not hasattr(loaded.model, "uncertainty")
    rows: list[dict[str, Any]] = []
    for case, scan, truth in part.scans():
        predicted = predict_scan(
            models,
            scan,
            plan,
            config if certain else dataclasses.replace(config, uncertainty=True),
            batch_size=batch_size,
            device=device,
            keep_probabilities=not certain,
        )
        scored = score_case(
            case.id,
            predicted.mask,
            truth,
            scan.grid.spacing,
            plan.labels,
            config.tolerance,
            config.lesions,
        )
        extra = {} if certain else _calibration(predicted, scan, truth)
        rows += [{**row, **extra} for row in scored]
    return Evaluation(
        metrics=summarise(rows, part.patients, seed=seed),
        n_scored=len(part.cases),
        predictions=table(rows, part.patients),
        figures=(),
        tables={"Cases of each label": counts(rows)},
        text=EMPTY_LABELS,
        shown=SHOWN,
    )


def baselines(prepared: Prepared, split: str) -> dict[str, dict[str, float]]:
    """Score masks made without a network on the same cases."""
    part, train = part_of(prepared, split), part_of(prepared, "train")
    plan, config = part.source.plan, part.source.config
    step = max(1, len(train.cases) // MOST_TRAINING_CASES)
    chosen = Part(train.cases[::step], train.source)
    fitted = fit_baselines(
        (_turned(scan, truth) for _, scan, truth in chosen.scans()), plan.classes
    )
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in fitted}
    for case, scan, truth in part.scans():
        image, label = _turned(scan, truth)
        axes, _ = orientation(scan.grid, scan.source)
        spacing = [scan.grid.spacing[axis] for axis in axes]
        for name, baseline in fitted.items():
            rows[name] += score_case(
                case.id,
                baseline(image),
                label,
                spacing,
                plan.labels,
                config.tolerance,
                config.lesions,
            )
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


def _calibration(predicted: Predicted, scan: Scan, truth: np.ndarray) -> dict[str, float]:
    assert predicted.probabilities is not None
    return calibration_scores(
        1 - predicted.probabilities[0],
        truth,
        scan.grid.spacing,
        prediction=predicted.mask,
        uncertainty=predicted.maps["uncertainty"],
    )

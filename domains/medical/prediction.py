"""From one scan to a mask on the scan's own grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from domains.medical.averaging import Average
from domains.medical.data.case import Grid, Scan
from domains.medical.data.config import DataConfig
from domains.medical.data.plan import Plan
from domains.medical.data.preprocessing import Placement, preprocess, restore, restore_map
from domains.medical.inference import finished_rows, gather
from domains.medical.postprocessing import postprocess
from shared_runtime.errors import DataError, UsageError


@dataclass(frozen=True)
class Predicted:
    """What is predicted for one scan, all of it on the scan's own grid.

    Args:
        mask: class indices `[*grid]`.
        table: one row per label: `label`, its raw `value`, `voxels`, and its volume in `ml` (2-D:
            its area in `mm2`); with an uncertainty map also its mean over the label.
        maps: float32 `[*grid]` in 0 to 1 by name, where asked: "uncertainty", then
            "disagreement" where several models or flips were averaged, or a model's own.
        probabilities: float32 `[K, *grid]`, where asked.
    """

    mask: np.ndarray
    table: pd.DataFrame
    maps: Mapping[str, np.ndarray]
    probabilities: np.ndarray | None = None


def predict_scan(
    models: Sequence[nn.Module],
    scan: Scan,
    plan: Plan,
    config: DataConfig,
    *,
    batch_size: int,
    device: torch.device,
    keep_probabilities: bool = False,
    precision: str = "32",
) -> Predicted:
    """Segment a scan with the average of `models`.

    Args:
        models: on `device`; each gives logits `[B, K, *grid]`.
        scan: what to segment.
        plan: how the models' input is made.
        config: `overlap`, `mirror`, `uncertainty`, `keep_largest` and `fill_holes` are used.
        batch_size: windows at once.
        device: where the models are.
        keep_probabilities: also return the probabilities, before post-processing.
        precision: "32", or the mixed precision that the models were trained in.

    Raises:
        DataError: the scan is empty, does not fit the plan, or has voxels that are not finite.
        UsageError: `data.mirror` is set though training mirrored nothing.
    """
    if config.mirror and not config.flips:
        raise UsageError(
            "data.mirror: the model was trained with data.flips=false, so flipped scans are "
            "unknown to it; set data.mirror=false"
        )
    if not scan.array.size:
        raise DataError(f"{scan.source}: is empty, {' x '.join(map(str, scan.grid.shape))} voxels")
    prepared = preprocess(scan, plan)
    average = Average(
        models, mirror=config.mirror, uncertainty=config.uncertainty, precision=precision
    )
    rows = finished_rows(
        average,
        prepared.array,
        window=plan.patch_size,
        overlap=config.overlap,
        batch_size=batch_size,
        device=device,
    )
    values = gather(map(average.finish, rows), prepared.array.shape[1:])
    placement, classes = prepared.placement, values[: plan.classes]
    del prepared
    mask = restore(classes, placement, plan)
    maps = {
        name: restore_map(values[plan.classes + number], placement)
        for number, name in enumerate(average.maps)
    }
    kept = _on_scan_grid(classes, placement) if keep_probabilities else None
    del values, classes
    mask = postprocess(mask, keep_largest=config.keep_largest, fill_holes=config.fill_holes)
    return Predicted(mask, label_table(mask, plan, scan.grid, maps), maps, kept)


def label_table(
    mask: np.ndarray, plan: Plan, grid: Grid, maps: Mapping[str, np.ndarray] | None = None
) -> pd.DataFrame:
    """Return one row per label of a mask, as :class:`Predicted` describes it."""
    count = np.sum([np.bincount(rows.ravel(), minlength=plan.classes) for rows in mask], axis=0)
    volume = abs(float(np.linalg.det(grid.affine[: mask.ndim, : mask.ndim])))
    unit, per_unit = ("ml", 1000) if mask.ndim == 3 else ("mm2", 1)
    names = [name for name, index in plan.labels.items() if index]
    indices = [index for index in plan.labels.values() if index]
    table = pd.DataFrame(
        {
            "label": names,
            "value": [plan.values[index] for index in indices],
            "voxels": count[indices],
            unit: count[indices] * volume / per_unit,
        }
    )
    for name, values in (maps or {}).items():
        table[name] = [float(values[mask == i].mean()) if count[i] else np.nan for i in indices]
    return table


def _on_scan_grid(classes: Tensor, placement: Placement) -> np.ndarray:
    """Probabilities on the scan's grid; what was cropped away is background."""
    restored = np.empty((len(classes), *placement.shape), dtype=np.float32)
    for index, values in enumerate(classes):
        restored[index] = restore_map(values, placement, outside=float(index == 0))
    return restored

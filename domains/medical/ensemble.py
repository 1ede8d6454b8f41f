"""Several runs that predict together, such as the folds of a cross-validation."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
import torch
import yaml
from torch import nn

from domains.medical.data.config import DataConfig
from domains.medical.data.plan import Plan
from shared_runtime.artifact import load_model
from shared_runtime.domain import LoadedModel, ModelSpec
from shared_runtime.errors import DataError, UsageError

CLOSE = 0.1
"""Deviations by which the intensities that CT is normalised with may differ between runs."""
_READ: WeakKeyDictionary[nn.Module, tuple[tuple[str, str], dict[str, LoadedModel]]] = (
    WeakKeyDictionary()
)


def load_ensemble(
    loaded: LoadedModel,
    config: DataConfig,
    specs: Mapping[str, ModelSpec],
    device: torch.device,
    *,
    scored: Collection[str] = (),
) -> list[nn.Module]:
    """Return the model of a run and those of the runs in `data.ensemble`.

    The input of all of them is made by the first run's plan. Plans of folds differ a little in
    the intensities of their training parts; runs whose plans differ more are refused.

    Args:
        loaded: the first run.
        config: names the others.
        specs: the domain's models.
        device: where the models go.
        scored: patients that will be scored; none of the other runs may have trained on them.

    Raises:
        UsageError: a folder holds no model that segments, one with another plan, or one that
            never saw flips where `data.mirror` asks for them.
        DataError: a run was trained on a patient of `scored`.
    """
    plan, models = plan_of(loaded), [loaded.model]
    require_flips(config)
    for text, other in _members(loaded, config.ensemble, specs, device).items():
        different = _difference(plan, plan_of(other))
        if different:
            raise UsageError(
                f"data.ensemble: {text} was trained with another {different} than "
                f"{loaded.folder}; leave it out, or train it again with that run's plan"
            )
        seen = sorted({*scored} & {*other.preprocessing.get("trained_on", ())})
        if seen:
            raise DataError(
                f"data.ensemble: {text} was trained on {len(seen)} of the patients to score, such "
                f"as {seen[0]}; score other patients"
            )
        models.append(other.model)
    return models


def require_flips(config: DataConfig) -> None:
    """Refuse to average over flips where a run of an ensemble was trained without any.

    Raises:
        UsageError: one was, or its configuration cannot be read.
    """
    if not config.mirror:
        return
    for text in _folders(config.ensemble):
        path = Path(text) / "config.yaml"
        try:
            data = yaml.safe_load(path.read_text(encoding="utf-8")).get("data") or {}
            flips = data.get("flips", True)
        except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
            raise UsageError(f"{path}: cannot be read: {error}; copy the whole run") from error
        if not flips:
            raise UsageError(
                f"data.mirror: {text} was trained with data.flips=false, so flipped scans are "
                "unknown to it; set data.mirror=false, or leave it out of data.ensemble"
            )


def _members(
    loaded: LoadedModel, ensemble: str, specs: Mapping[str, ModelSpec], device: torch.device
) -> dict[str, LoadedModel]:
    """Return the further runs by folder; they are read once for each model that asks for them."""
    key = (ensemble, str(device))
    read = _READ.get(loaded.model)
    if read is None or read[0] != key:
        members = {
            text: load_model(Path(text), specs, domain="medical", device=device)
            for text in _folders(ensemble)
        }
        read = _READ[loaded.model] = (key, members)
    return read[1]


def _folders(ensemble: str) -> list[str]:
    return [text for text in map(str.strip, ensemble.split(",")) if text]


def plan_of(loaded: LoadedModel) -> Plan:
    """Return the plan that a model was trained with.

    Raises:
        UsageError: it is not a model that segments.
    """
    state = loaded.preprocessing.get("plan")
    if not isinstance(state, Mapping) or not state.get("patch_size"):
        raise UsageError(f"{loaded.folder}: {loaded.spec.name} does not segment; use another run")
    return Plan.from_dict(state)


def _difference(plan: Plan, other: Plan) -> str | None:
    """What two plans differ in so much that their models cannot be averaged."""
    for name in ("channels", "labels", "values", "normalisation", "crop"):
        if getattr(plan, name) != getattr(other, name):
            return name
    if not np.allclose(plan.spacing, other.spacing, rtol=1e-3):
        return "spacing"
    pairs = zip(plan.normalisation, plan.intensities, other.intensities, strict=True)
    for kind, one, two in pairs:
        apart = max(abs(one.mean - two.mean), abs(one.std - two.std))
        if kind == "ct" and apart > CLOSE * one.std:
            return "range of intensities"
    return None

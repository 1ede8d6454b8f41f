"""From files to patches for training and cases for scoring, and what prediction needs again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from domains.medical.data.cache import PreparedCase, prepare_cases
from domains.medical.data.case import Case, DataSet, Scan
from domains.medical.data.config import DataConfig
from domains.medical.data.fingerprint import fingerprint
from domains.medical.data.layouts import read_data_set
from domains.medical.data.patches import FixedPatches, PatchBatches
from domains.medical.data.plan import Plan
from domains.medical.data.planning import make_plan
from domains.medical.data.reading import read_label, read_scan
from domains.medical.data.splits import Parts, split
from shared_runtime.domain import Batches, Prepared
from shared_runtime.errors import DataError

WATCHED = 16
"""Training cases whose loss is shown where no patients are held out for validation."""


@dataclass(frozen=True)
class Source:
    """Where the cases of a part come from and how they are prepared."""

    data_set: DataSet
    plan: Plan
    config: DataConfig

    def read(self, case: Case) -> tuple[Scan, np.ndarray]:
        """Return a case's scan, and the class of each of its voxels."""
        return read(case, self.data_set)


class Part:
    """The cases of a part, and patches of them; satisfies `shared_runtime.domain.Batches`.

    Patches are prepared when they are first asked for, so that scoring prepares none.

    Args:
        cases: of the part.
        source: where they come from.
        make: makes the patches; None where whole cases are scored and there are none.
    """

    def __init__(
        self, cases: tuple[Case, ...], source: Source, make: Callable[[], Batches] | None = None
    ) -> None:
        self.cases = cases
        self.source = source
        self._make = make

    @cached_property
    def patches(self) -> Batches:
        """The patches of the part."""
        if self._make is None:
            raise DataError("the part that is scored has whole cases and no patches")
        return self._make()

    def __len__(self) -> int:
        return len(self.cases) if self._make is None else len(self.patches)

    def start_epoch(self, epoch: int) -> None:
        """Draw other patches, where they differ from epoch to epoch."""
        begin = getattr(self.patches, "start_epoch", None)
        if begin is not None:
            begin(epoch)

    def batch(self, indices: np.ndarray) -> dict[str, Tensor]:
        """Return patches: `image` `[n, C, *patch]` and `label` `[n, *patch]`."""
        return self.patches.batch(indices)

    def scans(self) -> Iterator[tuple[Case, Scan, np.ndarray]]:
        """Read one case after the other."""
        for case in self.cases:
            yield case, *self.source.read(case)

    @property
    def patients(self) -> dict[str, str]:
        """Patient of each case."""
        return {case.id: case.patient for case in self.cases}


def prepare(
    config: DataConfig, *, seed: int, preprocessing: Mapping[str, Any] | None = None
) -> Prepared:
    """Read, split, plan and prepare scans.

    The plan is made from the training part, or taken from `preprocessing`. Data that a trained
    model has seen no patient of are scored whole; others by the same split, so that no patient is
    scored that the model was trained on.

    Raises:
        DataError: the data cannot be used, or a scored patient was trained on.
    """
    data_set = usable(config)
    if preprocessing is None:
        parts = split(data_set, config, seed)
        found = fingerprint(parts.train, data_set, partial(read, data_set=data_set))
        plan = make_plan(found, data_set, config)
        trained = sorted({case.patient for case in (*parts.train, *parts.val)})
    else:
        plan = Plan.from_dict(preprocessing["plan"])
        trained = preprocessing["trained_on"]
        require_same(data_set, plan, config.path)
        parts = unseen(data_set, trained, config, seed)
    source = Source(data_set, plan, config)
    return Prepared(
        train=Part(parts.train, source, lambda: _random_patches(parts.train, source, seed)),
        val=Part(parts.val, source, lambda: _fixed_patches(parts, source)),
        test=Part(parts.test, source),
        model_arguments={
            "channels": len(plan.channels),
            "classes": plan.classes,
            "spatial_dims": plan.spatial_dims,
            "patch_size": plan.patch_size,
        },
        preprocessing={"plan": plan.to_dict(), "trained_on": trained},
        data_hash=hash_of(data_set),
        summary=_summary(data_set, plan, parts),
    )


def read(case: Case, data_set: DataSet) -> tuple[Scan, np.ndarray]:
    """Return a case's scan, and the class of each of its voxels."""
    dims = data_set.spatial_dims
    scan = read_scan(case, len(data_set.channels), spatial_dims=dims)
    return scan, read_label(case, data_set, spatial_dims=dims)


def usable(config: DataConfig) -> DataSet:
    """Return the labelled cases of a data set.

    Raises:
        DataError: lists every error of how the cases are listed.
    """
    data_set, problems = read_data_set(config)
    errors = [f"{p.where}: {p.what}; {p.remedy}" for p in problems if p.severity == "error"]
    if errors:
        raise DataError("\n".join(errors))
    return data_set


def unseen(data_set: DataSet, trained: Sequence[str], config: DataConfig, seed: int) -> Parts:
    """Return the parts of data that a trained model is scored on.

    Raises:
        DataError: a patient that would be scored was trained on.
    """
    known = {case.patient for case in data_set.cases} & set(trained)
    if not known:
        return Parts((), data_set.cases, data_set.cases)
    parts = split(data_set, config, seed)
    seen = sorted({case.patient for case in parts.test} & known)
    if seen:
        raise DataError(
            f"{config.path}: {len(seen)} of the patients to score were trained on, such as "
            f"{seen[0]}; score other patients, or use the folds of the training run"
        )
    return parts


def require_same(data_set: DataSet, plan: Plan, path: Path) -> None:
    """Refuse data that do not fit a trained model.

    Raises:
        DataError: channels, dimensions or labels are others.
    """
    for what, found, expected in (
        ("axes", data_set.spatial_dims, plan.spatial_dims),
        ("channels", len(data_set.channels), len(plan.channels)),
        ("labels", dict(data_set.labels), dict(plan.labels)),
    ):
        if found != expected:
            raise DataError(
                f"{path}: has {what} {found}, the model was trained with {expected}; "
                "give data of the same kind"
            )


def hash_of(data_set: DataSet) -> str:
    """Hash the content of every file of a data set, and what its declaration says of them."""
    digest = hashlib.sha256(repr((data_set.labels, data_set.values)).encode())
    for case in data_set.cases:
        digest.update(f"{case.id} {case.patient} {case.split} {case.target}".encode())
        for path in (*case.images, *([case.label] if case.label else [])):
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if file.is_file():
                    with file.open("rb") as stream:
                        digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _random_patches(cases: tuple[Case, ...], source: Source, seed: int) -> Batches:
    return PatchBatches(_prepared(cases, source), source.plan, source.config, seed=seed)


def _fixed_patches(parts: Parts, source: Source) -> Batches:
    """Patches to validate on; of training cases that only watch the loss, a few will do."""
    watched = parts.val
    if parts.val == parts.train:
        watched = parts.val[:: -(-len(parts.val) // WATCHED)]
    return FixedPatches(_prepared(watched, source), source.plan)


def _prepared(cases: tuple[Case, ...], source: Source) -> tuple[PreparedCase, ...]:
    return prepare_cases(cases, source.plan, source.read, source.config.cache)


def _summary(data_set: DataSet, plan: Plan, parts: Parts) -> dict[str, Any]:
    return {
        "cases": len(data_set.cases),
        **{f"{name} cases": len(cases) for name, cases in parts.items().items()},
        "channels": ", ".join(plan.channels),
        "labels": ", ".join(name for name, index in plan.labels.items() if index),
        "spacing": " x ".join(f"{value:.3g}" for value in plan.spacing) + " mm",
        "patch": " x ".join(map(str, plan.patch_size)),
        "normalisation": ", ".join(plan.normalisation),
    }

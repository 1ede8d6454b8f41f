"""Learners grow on a plateau, and a run that fails anywhere resumes to the same result."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from domains.medical.models.dynamic_subspace_learners import DynamicSubspaceLearners
from domains.medical.retrieval.data import RetrievalImages
from domains.medical.retrieval.runs import make_task
from domains.medical.retrieval.task import RetrievalTask
from shared_runtime.domain import Prepared
from shared_runtime.run_folder import RunFolder
from shared_runtime.training import FitResult, TrainingConfig, fit

SIZE = (16, 16)


class PowerCutError(Exception):
    pass


@dataclasses.dataclass
class Failing(RetrievalImages):
    budget: list[int] = dataclasses.field(default_factory=lambda: [10**9])

    def batch(self, indices: np.ndarray) -> dict[str, Tensor]:
        if self.budget[0] == 0:
            raise PowerCutError
        self.budget[0] -= 1
        return super().batch(indices)


def images(count: int, seed: int, budget: list[int] | None = None, **options: Any) -> Failing:
    """Three classes: a bright corner, a bright middle, nothing; noise over all."""
    random = np.random.default_rng(seed)
    target = np.arange(count) % 3
    array = random.normal(0, 0.5, size=(count, 1, *SIZE))
    array[target == 0, :, :6, :6] += 2
    array[target == 1, :, 5:11, 5:11] += 2
    names = [f"{seed}-{n}" for n in range(count)]
    return Failing(
        array.astype(np.float16), target, names, names, budget=budget or [10**9], **options
    )


def data(cut: int | None = None) -> Prepared:
    budget = None if cut is None else [cut]
    return Prepared(
        train=images(36, 1, budget, augment="full"),
        val=images(18, 2, budget),
        test=images(18, 3),
        model_arguments={},
        preprocessing={},
        data_hash="made",
        summary={},
    )


def model(**options: Any) -> DynamicSubspaceLearners:
    torch.manual_seed(0)
    sizes = {"channels": 1, "targets": 3, "spatial_dims": 2, "size": SIZE}
    small = {"embedding": 24, "width": 8, "max_learners": 3, "dropout": 0.1}
    return DynamicSubspaceLearners(**{**sizes, **small, **options})


def train(
    out: Path, training: TrainingConfig, prepared: Prepared, *, resume: bool = False, **options: Any
) -> tuple[FitResult, RetrievalTask]:
    whole = images(36, 1)
    task = RetrievalTask(model(**options), training, whole, batch_size=20)
    folder = RunFolder(out)
    cpu = torch.device("cpu")
    return fit(task, prepared, training, folder, seed=3, device=cpu, resume=resume), task


def rows(result: FitResult) -> list[dict[str, float]]:
    return [{key: row[key] for key in row if key != "seconds"} for row in result.history]


EAGER: dict[str, Any] = {"grow_after": 0, "recluster_every": 1, "merge_at": 0.75}
"""Learners that split at each epoch that is no better, and are merged in the last."""


@pytest.mark.parametrize(
    ("settings", "cuts"),
    [
        ({"epochs": 4, "select": "last", "patience": 0, "checkpoint_every": 1}, (2, 8, 16)),
        ({"epochs": 3, "patience": 0, "average": 0.9, "accumulate": 2}, (7, 12)),
    ],
)
def test_resumed_equals_uninterrupted(
    tmp_path: Path, settings: dict[str, Any], cuts: tuple[int, ...]
) -> None:
    training = TrainingConfig(batch_size=12, learning_rate=0.02, **settings)
    expected, quiet = train(tmp_path / "quiet", training, data(), **EAGER)
    weights = quiet.model.state_dict()
    assert int(weights["learners"]) > 1 or settings.get("select") != "last"
    for cut in cuts:
        out = tmp_path / str(cut)
        with pytest.raises(PowerCutError):
            train(out, training, data(cut), **EAGER)
        result, task = train(out, training, data(), resume=True, **EAGER)
        assert rows(result) == rows(expected), cut
        again = task.model.state_dict()
        assert all(torch.equal(weights[name], again[name]) for name in weights), cut


def one_class(source: Failing) -> Failing:
    kept = np.flatnonzero(source.target == 0)
    names = [source.ids[n] for n in kept]
    return Failing(source.images[kept], source.target[kept], names, names)


def test_validation_images_of_one_class_are_told_from_the_training_images(tmp_path: Path) -> None:
    prepared = dataclasses.replace(data(), val=one_class(images(12, 2)))
    training = TrainingConfig(
        epochs=1, batch_size=36, learning_rate=1e-6, select="last", patience=0
    )
    alone, _ = train(tmp_path / "alone", training, prepared)
    assert alone.history[0]["val_loss"] == 0

    task = make_task(model(), prepared, training)
    assert isinstance(task, RetrievalTask)
    cpu = torch.device("cpu")
    result = fit(task, prepared, training, RunFolder(tmp_path / "all"), seed=3, device=cpu)
    embedded, target = [], []
    for part in (prepared.val, prepared.train.plain()):  # type: ignore[attr-defined]
        batch = part.batch(np.arange(len(part)))
        embedded.append(task.model.eval()(batch["image"]).detach().numpy())
        target.append(batch["target"].numpy())
    points, classes = np.concatenate(embedded), np.concatenate(target)
    precisions = []
    for query in range(4):
        order = np.argsort(np.linalg.norm(points - points[query], axis=1))
        same = classes[order[order != query]] == classes[query]
        precisions.append((same.cumsum() / np.arange(1, len(same) + 1))[same].mean())
    expected = 1 - np.mean(precisions)
    assert expected > 0.1
    assert result.history[0]["val_loss"] == pytest.approx(expected, abs=0.02)


def test_training_images_that_validate_are_not_looked_up_among_themselves() -> None:
    prepared = dataclasses.replace(data(), val=images(36, 1))
    task = make_task(model(), prepared, TrainingConfig())
    assert isinstance(task, RetrievalTask)
    assert len(task.gallery) == 0


def test_learners_grow_from_one_and_are_merged_at_the_end(tmp_path: Path) -> None:
    training = TrainingConfig(
        epochs=4, batch_size=12, learning_rate=0.02, select="last", patience=0
    )
    _, task = train(tmp_path, training, data(), **EAGER)
    trained = task.model
    assert isinstance(trained, DynamicSubspaceLearners)
    count = int(trained.learners)
    assert 1 < count <= 3
    assert sorted(trained.owner.unique().tolist()) == list(range(count))
    assert bool(trained.merged)
    assert trained.centroids[:count].abs().sum(1).min() > 0


def test_no_learner_is_added_while_validation_improves(tmp_path: Path) -> None:
    training = TrainingConfig(epochs=3, batch_size=12, select="last", patience=0)
    _, task = train(tmp_path, training, data(), grow_after=3)
    assert int(task.model.learners) == 1  # type: ignore[arg-type]


def test_training_teaches_retrieval(tmp_path: Path) -> None:
    training = TrainingConfig(epochs=6, batch_size=12, learning_rate=5e-3, patience=0)
    result, _ = train(tmp_path, training, data())
    losses = [row["val_loss"] for row in result.history]
    assert min(losses) < 0.15
    chance = 1 - 5 / 17
    assert min(losses) < chance - 0.3

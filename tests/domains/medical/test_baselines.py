"""Baselines on data that they fit by construction, and on the real hippocampi."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from sklearn.model_selection import KFold

from domains.medical.baselines import fit_atlas, fit_baselines, fit_threshold
from domains.medical.metrics import score_case
from domains.medical.scoring import summarise


def test_the_atlas_votes_place_by_place() -> None:
    labels = [np.zeros((6, 6), dtype=np.int64) for _ in range(5)]
    for label in labels:
        label[:2] = 1
    for label in labels[:3]:
        label[4:] = 2
    for label in labels[:2]:
        label[2:4] = 2
    expected = np.repeat([1, 1, 0, 0, 2, 2], 6).reshape(6, 6)
    assert (fit_atlas(labels, 3)(np.zeros((1, 6, 6))) == expected).all()


def test_the_atlas_follows_the_size_of_the_scan() -> None:
    shapes = [(40, 30, 20), (20, 30, 10), (30, 30, 30)]
    labels = []
    for shape in shapes:
        label = np.zeros(shape, dtype=np.uint8)
        label[: shape[0] // 2] = 1
        labels.append(label)
    atlas = fit_atlas(labels, 2)
    for shape in ((24, 8, 8), (60, 40, 33)):
        mask = atlas(np.zeros((1, *shape)))
        assert mask.shape == shape and mask.dtype == np.uint8
        assert (mask[: shape[0] // 2] == 1).all() and (mask[shape[0] // 2 :] == 0).all()


def test_thresholds_are_the_best_of_all_intervals() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 400)
    values = rng.normal(np.array([0.0, 1.0, 3.0])[label], 0.8)
    fitted = fit_threshold(values[None, None], label)
    for index, _, _, low, high in fitted.rules:
        truth = label == index

        def dice(a: float, b: float, truth: np.ndarray = truth) -> float:
            inside = (values >= a) & (values < b)
            return 2 * (inside & truth).sum() / (inside.sum() + truth.sum())

        edges = np.quantile(values, np.linspace(0, 1, 33))
        edges[-1] = np.inf
        best = max(dice(a, b) for a, b in product(edges, edges) if a < b)
        assert dice(low, high) >= best - 1e-9


def scans(number: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """A square anywhere, bright only in the second channel and only beside its own scan."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(number):
        label = np.zeros((20, 24), dtype=np.uint8)
        row, column = rng.integers(0, 12, 2)
        label[row : row + 8, column : column + 8] = 1
        image = rng.normal(size=(2, 20, 24))
        gain, offset = rng.uniform(1, 20), rng.uniform(-100, 100)
        image[1] = gain * (image[1] + 8 * label) + offset
        found.append((image, label))
    return found


def test_the_threshold_picks_channel_and_scale() -> None:
    fitted = fit_baselines(iter(scans(20, 0)), 2)
    assert fitted["threshold"].rules[0][:3] == (1, 1, True)
    for image, label in scans(4, 99):
        mask = fitted["threshold"](image)
        assert 2 * (mask * label).sum() / (mask.sum() + label.sum()) > 0.95
        assert (fitted["majority"](image) == 0).all()
        assert fitted["atlas"](image).shape == label.shape


def test_values_that_are_absolute_are_not_standardised() -> None:
    rng = np.random.default_rng(0)
    train = []
    for _ in range(10):
        tissue = rng.choice(3, (16, 16, 8), p=rng.dirichlet([1, 1, 1]))
        train.append((rng.normal(100.0 * tissue, 5.0)[None], (tissue == 1).astype(np.uint8)))
    assert fit_baselines(train, 2)["threshold"].rules[0][2] is False


def test_a_class_without_voxels_has_no_rule_and_large_scans_are_thinned() -> None:
    label = np.zeros((300, 8), dtype=np.uint8)
    label[150:] = 1
    fitted = fit_baselines([(label[None].astype(np.float32), label)], 3)
    assert [rule[0] for rule in fitted["threshold"].rules] == [1]
    assert fitted["atlas"].frequency.shape == (3, 128, 8)
    assert (fitted["atlas"](label[None]) == label).mean() > 0.99
    assert (fitted["threshold"](label[None]) == label).all()


def test_no_training_case_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one training case"):
        fit_baselines([], 2)


def test_the_hippocampus_floor_is_the_published_one(heed_data: Path) -> None:
    """Fold 0 of nnU-Net's folds; a mean label map has about 0.745 and 0.684 over all five."""
    folder = heed_data / "medical" / "hippocampus"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    names = sorted(path.name for path in (folder / "labelsTr").glob("*.nii.gz"))
    train, test = next(KFold(5, shuffle=True, random_state=12345).split(names))
    assert (len(train), len(test)) == (208, 52)

    def label(number: int) -> np.ndarray:
        return np.asarray(nib.load(folder / "labelsTr" / names[number]).dataobj).astype(np.uint8)

    atlas = fit_atlas([label(i) for i in train[::2]], 3)
    classes = {"background": 0, "anterior": 1, "posterior": 2}
    rows = []
    for number in test:
        truth = label(number)
        mask = atlas(truth[None])
        rows += score_case(names[number], mask, truth, (1.0, 1.0, 1.0), classes)
    found = summarise(rows, seed=0, resamples=10)
    assert found["dice_anterior"].value == pytest.approx(0.745, abs=0.015)
    assert found["dice_posterior"].value == pytest.approx(0.684, abs=0.015)

"""Patches hold what the scans hold, where they should, and depend on nothing but the item."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from domains.medical.data.cache import PreparedCase
from domains.medical.data.config import DataConfig
from domains.medical.data.patches import MOST_FIXED, FixedPatches, PatchBatches
from shared_runtime.errors import DataError
from tests.domains.medical.small_cases import plan, prepared


def numbered(shape: tuple[int, ...], base: int = 0, name: str = "a") -> PreparedCase:
    """A case whose voxels are numbered from `base` + 1, with a few voxels of two classes."""
    image = np.arange(1, np.prod(shape) + 1).reshape(1, *shape) + base
    label = np.zeros(shape, int)
    corner = tuple(n // 2 for n in shape)
    label[corner] = 1
    label[tuple(n - 1 for n in corner)] = 2
    return prepared(image, label, name)


def config(**changed: Any) -> DataConfig:
    given = {"patches_per_epoch": 60, "augment": "none", **changed}
    return DataConfig(path=Path("data"), **given)


def batches(cases: list[PreparedCase], patch: tuple[int, ...], **changed: Any) -> PatchBatches:
    return PatchBatches(
        cases, plan((1.0,) * len(patch), patch_size=patch), config(**changed), seed=5
    )


def everything(made: PatchBatches | FixedPatches) -> dict[str, torch.Tensor]:
    return made.batch(np.arange(len(made)))


@pytest.mark.parametrize("shape", [(10, 11, 12), (10, 11)])
def test_patches_are_parts_of_their_scan(shape: tuple[int, ...]) -> None:
    case = numbered(shape)
    patch = (4, 5, 6)[: len(shape)]
    found = everything(batches([case], patch))
    assert found["image"].shape == (60, 1, *patch) and found["image"].dtype == torch.float32
    assert found["label"].shape == (60, *patch) and found["label"].dtype == torch.int64
    starts = set()
    for image, label in zip(found["image"].numpy(), found["label"].numpy(), strict=True):
        first = np.unravel_index(int(image.flat[0]) - 1, shape)
        place = tuple(slice(a, a + n) for a, n in zip(first, patch, strict=True))
        np.testing.assert_array_equal(image[0], case.image[0][place])
        np.testing.assert_array_equal(label, case.label[place])
        starts.add(first)
    assert len(starts) > 20
    assert {s[0] for s in starts} >= {0, 6}


def test_small_scans_lie_in_the_middle_of_the_patch() -> None:
    case = numbered((3, 8, 20))
    image = everything(batches([case], (8, 8, 8)))["image"][:, 0]
    assert not image[:, :2].any() and not image[:, 5:].any()
    assert (image[:, 2:5] > 0).all()


def test_foreground_is_at_the_centre_and_classes_are_equal() -> None:
    rare = numbered((16, 16, 16))
    label = np.zeros((16, 16, 16), int)
    label[4:12, 4:12, 4:12] = 1
    common = prepared(np.zeros((1, 16, 16, 16)), label)
    made = batches([rare, common, common], (6, 6, 6), foreground=1.0, patches_per_epoch=1000)
    label_at = everything(made)["label"][:, 3, 3, 3]
    assert (label_at > 0).all()
    assert (label_at == 2).float().mean() == pytest.approx(0.5, abs=0.05)
    made = batches([rare, common], (6, 6, 6), foreground=0.4, patches_per_epoch=1000)
    assert (everything(made)["label"][:, 3, 3, 3] == 2).float().mean() == pytest.approx(
        0.2, abs=0.04
    )


def test_cases_take_turns() -> None:
    cases = [numbered((8, 8), base) for base in (0, 1000, 2000, 3000)]
    image = everything(batches(cases, (4, 4), foreground=0))["image"]
    which = (image.flatten(1).max(1).values / 1000).long()
    assert torch.bincount(which).tolist() == [15] * 4


@pytest.mark.parametrize("dims", [2, 3])
def test_an_item_depends_on_seed_epoch_and_number_alone(dims: int) -> None:
    cases = [numbered((12, 14, 13)[:dims]), numbered((7, 15, 9)[:dims], 5000)]

    def new(seed: int = 5) -> PatchBatches:
        made = plan((1.0,) * dims, patch_size=(9,) * dims)
        return PatchBatches(cases, made, config(augment="full"), seed=seed)

    made = new()
    made.start_epoch(3)
    whole = everything(made)
    made.start_epoch(4)
    other = everything(made)
    resumed = new()
    resumed.start_epoch(3)
    for index in range(len(made)):
        one = resumed.batch(np.array([index]))
        torch.testing.assert_close(one["image"][0], whole["image"][index], rtol=1e-5, atol=1e-2)
        assert torch.equal(one["label"][0], whole["label"][index])
    mixed = resumed.batch(np.array([41, 7]))
    torch.testing.assert_close(mixed["image"], whole["image"][[41, 7]], rtol=1e-5, atol=1e-2)
    again = resumed.batch(np.array([41, 7]))
    assert torch.equal(again["image"], mixed["image"])
    assert not torch.equal(other["image"], whole["image"])
    changed = new(seed=6)
    changed.start_epoch(3)
    assert not torch.equal(everything(changed)["image"], whole["image"])


def test_flips_mirror_image_and_label() -> None:
    case = numbered((6, 7, 8))
    found = everything(batches([case], (6, 7, 8), augment="light", patches_per_epoch=200))
    seen = set()
    for image, label in zip(found["image"].numpy(), found["label"].numpy(), strict=True):
        for axes in [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]:
            if np.array_equal(image[0], np.flip(case.image[0], axes)):
                np.testing.assert_array_equal(label, np.flip(case.label, axes))
                seen.add(axes)
    assert len(seen) == 8
    still = everything(batches([case], (6, 7, 8), augment="light", flips=False))["image"]
    first = still[:, 0, 0, 0, 0]
    assert (first == 1).float().mean() > 0.4 and not (first == case.image.max()).any()


def test_moved_patches_see_beyond_their_borders() -> None:
    """Rotated or shrunken patches inside a large scan have no empty corners."""
    case = prepared(np.ones((1, 40, 40, 40)), np.ones((40, 40, 40), int))
    made = batches([case], (8, 8, 8), augment="light", foreground=0, patches_per_epoch=300)
    inside = ((made._start > 4) & (made._start < 28)).all(axis=1)
    some = np.flatnonzero(made._changes.moved & inside & (made._changes.zoom > 0.85))
    assert len(some) > 5
    found = made.batch(some)
    torch.testing.assert_close(found["image"], torch.ones_like(found["image"]))
    assert (found["label"] == 1).all()


def test_scans_stay_as_they_are() -> None:
    case = numbered((9, 9, 9))
    before = case.image.copy()
    everything(batches([case], (9, 9, 9), augment="full"))
    np.testing.assert_array_equal(case.image, before)


@pytest.mark.parametrize(
    ("shape", "count"),
    [((7, 8, 9), 1), ((10, 8, 9), 1), ((11, 8, 8), 2), ((16, 16, 30), MOST_FIXED)],
)
def test_fixed_patches_cover_a_case(shape: tuple[int, ...], count: int) -> None:
    case = numbered(shape)
    made = FixedPatches([case], plan(patch_size=(8, 8, 8)))
    first = everything(made)
    made.start_epoch(7)
    assert torch.equal(first["image"], everything(made)["image"])
    assert len(made) == count
    seen = np.unique(first["image"]).astype(int)
    assert len(seen[seen > 0]) >= min(0.7 * case.label.size, count * 8**3 * 0.6)
    assert {1, 2} <= set(first["label"].unique().tolist())


def test_fixed_patches_may_be_none_and_training_ones_not() -> None:
    assert len(FixedPatches([], plan())) == 0
    with pytest.raises(DataError, match="no cases"):
        PatchBatches([], plan(), config(), seed=0)


def test_without_foreground_patches_lie_anywhere() -> None:
    case = prepared(np.ones((1, 9, 9)), np.zeros((9, 9)))
    assert not everything(batches([case], (4, 4), foreground=1.0))["label"].any()

"""Preparation and the way back: exact where grids agree, in the same place in the world always."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from domains.medical.data.case import Grid, Scan
from domains.medical.data.plan import Intensity
from domains.medical.data.preprocessing import (
    Placement,
    content_box,
    preprocess,
    preprocess_label,
    resampled_shape,
    restore,
    restore_map,
)
from shared_runtime.errors import DataError
from tests.domains.medical.small_cases import plan, scan

ORIENTATIONS = list(
    itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3))
)


def turned(array: np.ndarray, affine: np.ndarray, axes: tuple[int, ...], signs: tuple[int, ...]):
    """The same voxels in the same places of the world, stored along other axes."""
    out = array.transpose(0, *(1 + axis for axis in axes))
    matrix = affine[:, [*axes, 3]].copy()
    for axis, sign in enumerate(signs):
        if sign < 0:
            out = np.flip(out, axis + 1)
            matrix[:3, 3] += matrix[:3, axis] * (out.shape[axis + 1] - 1)
            matrix[:3, axis] *= -1
    return np.ascontiguousarray(out), Grid(out.shape[1:], matrix)


def oblique() -> np.ndarray:
    a, b = 0.3, -0.2
    one = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    two = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = one @ two @ np.diag([0.7, 0.9, 1.6])
    affine[:3, 3] = [-20, 13, 5]
    return affine


@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS)
def test_storage_order_changes_nothing(axes: tuple[int, ...], signs: tuple[int, ...]) -> None:
    """Every way to store a scan is prepared alike, and its mask comes back along its own axes."""
    rng = np.random.default_rng(0)
    image = rng.standard_normal((1, 8, 6, 5)).astype(np.float32)
    label = rng.integers(0, 3, (1, 8, 6, 5)).astype(np.uint8)
    given = plan((1.0, 0.8, 2.0))
    plain = preprocess(Scan(image, Grid((8, 6, 5), oblique()), Path("a")), given)
    stored, grid = turned(image, oblique(), axes, signs)
    found = preprocess(Scan(stored, grid, Path("b")), given)
    np.testing.assert_array_equal(found.array, plain.array)
    label_there, _ = turned(label, oblique(), axes, signs)
    small = preprocess_label(label_there[0], found.placement)
    np.testing.assert_array_equal(small, preprocess_label(label[0], plain.placement))
    scores = torch.rand(3, *found.placement.prepared)
    back, _ = turned(restore(scores, plain.placement, given)[None], oblique(), axes, signs)
    np.testing.assert_array_equal(restore(scores, found.placement, given), back[0])
    shown, _ = turned(restore_map(scores[0], plain.placement)[None], oblique(), axes, signs)
    np.testing.assert_array_equal(restore_map(scores[0], found.placement), shown[0])


@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS[::5])
def test_equal_spacing_gives_labels_back_bit_for_bit(
    axes: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    label = np.random.default_rng(1).integers(0, 3, (1, 7, 6, 5)).astype(np.uint8)
    stored, grid = turned(label, np.diag([0.9, 0.9, 3, 1]), axes, signs)
    given = plan((0.9, 0.9, 3))
    placement = preprocess(Scan(stored.astype(np.float32), grid, Path("a")), given).placement
    small = preprocess_label(stored[0], placement)
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(small).long(), 3).movedim(-1, 0)
    back = restore(one_hot.float(), placement, given)
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, stored[0])


@pytest.mark.parametrize("spacing", [(0.7, 0.7, 2.0), (1.5, 0.5, 1.0), (2.0, 2.0, 2.0)])
def test_resampling_stays_in_place(spacing: tuple[float, ...]) -> None:
    """A ball that is known in millimetres is where it should be, there and back."""
    shape = tuple(round(60 / mm) for mm in spacing)

    def ball(shape: tuple[int, ...], spacing: tuple[float, ...]) -> np.ndarray:
        at = np.meshgrid(
            *[(np.arange(n) + 0.5) * mm for n, mm in zip(shape, spacing, strict=True)],
            indexing="ij",
        )
        distance = np.sqrt(sum((x - c) ** 2 for x, c in zip(at, (27, 31, 33), strict=True)))
        return 15 - distance

    given = plan((1.0, 1.0, 1.0))
    image = ball(shape, spacing)
    one = preprocess(scan(image[None], spacing), given)
    assert one.placement.prepared == (60, 60, 60)
    there = ball((60, 60, 60), (1, 1, 1)) > 0
    assert dice(preprocess_label((image > 0).astype(np.uint8), one.placement) > 0, there) > 0.95
    inside = torch.from_numpy(ball((60, 60, 60), (1, 1, 1))).sigmoid()
    scores = torch.stack([1 - inside, inside, torch.zeros_like(inside)])
    assert dice(restore(scores, one.placement, given) > 0, image > 0) > 0.99
    values = restore_map(inside, one.placement)
    assert np.abs(values - 1 / (1 + np.exp(-image)))[tuple([slice(2, -2)] * 3)].max() < 0.1


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_respaced_scans_give_the_same_world_mask() -> None:
    """A mask found by a threshold, on a scan and on the scan at another spacing."""
    from domains.medical.data.resampling import resample_image

    rng = np.random.default_rng(2)
    image = resample_image(rng.standard_normal((1, 6, 7, 6)).astype(np.float32), (40, 48, 36))
    finer = resample_image(image, (56, 40, 90))
    given = plan((1.0, 1.0, 1.0))
    masks = []
    for array, spacing in ((image, (1, 1, 1)), (finer, (40 / 56, 48 / 40, 36 / 90))):
        one = preprocess(scan(array, spacing), given)
        assert one.placement.prepared == (40, 48, 36)
        value = torch.from_numpy(one.array[0])
        masks.append(restore(torch.stack([-value, value, value - 1]), one.placement, given))
    small = resample_image((masks[1] > 0)[None].astype(np.float32), (40, 48, 36), [True] * 3)
    assert dice(small[0] > 0.5, masks[0] > 0) > 0.98


def test_crops_to_what_is_not_zero() -> None:
    rng = np.random.default_rng(3)
    image = np.zeros((2, 12, 10, 9), np.float32)
    image[:, 3:9, 2:8, 4:7] = rng.normal(50, 9, (2, 6, 6, 3))
    image[:, 5, 5, 5] = 0
    before = image.copy()
    given = plan(
        channels=("a", "b"),
        normalisation=("zscore", "rescale"),
        intensities=(Intensity(0, 1, 0, 1),) * 2,
        crop=True,
    )
    one = preprocess(scan(image), given)
    assert one.placement.crop == ((3, 9), (2, 8), (4, 7)) and one.array.shape == (2, 6, 6, 3)
    values = one.array[0][image[0, 3:9, 2:8, 4:7] != 0]
    assert abs(values.mean()) < 1e-6 and abs(values.std() - 1) < 1e-6
    assert one.array[0, 2, 3, 1] == 0
    assert (one.array[1].min(), one.array[1].max()) == (0, 1)
    np.testing.assert_array_equal(image, before)
    mask = restore(torch.eye(3)[1].view(3, 1, 1, 1).expand(3, 6, 6, 3), one.placement, given)
    assert mask.sum() == 6 * 6 * 3 and mask[3:9, 2:8, 4:7].all()
    shown = restore_map(torch.ones(6, 6, 3), one.placement, outside=-1)
    assert shown[0, 0, 0] == -1 and shown[3:9, 2:8, 4:7].min() == 1
    assert content_box(np.zeros((1, 3, 4))) == ((0, 3), (0, 4))


def test_normalisations_by_hand() -> None:
    image = np.array([[[-1000.0, 0.0], [40.0, 3000.0]]], np.float32)
    ct = plan((1, 1), normalisation=("ct",), intensities=(Intensity(20, 10, -50, 200),))
    found = preprocess(scan(image), ct).array[0]
    np.testing.assert_allclose(found, [[-7, -2], [2, 18]], rtol=1e-6)
    rescaled = preprocess(scan(image), plan((1, 1), normalisation=("rescale",))).array[0]
    np.testing.assert_allclose(rescaled, [[0, 0.25], [0.26, 1]], atol=1e-6)
    scored = preprocess(scan(image), plan((1, 1))).array[0]
    np.testing.assert_allclose(scored, (image[0] - image.mean()) / image.std(), rtol=1e-5)


@pytest.mark.parametrize("size", [1e-30, 4, 1.7e6, 3e38])
def test_z_scores_at_any_scale(size: float) -> None:
    image = (np.random.default_rng(0).random((1, 9, 9, 9)) * size).astype(np.float32)
    found = preprocess(scan(image), plan()).array.astype(np.float64)
    assert abs(found.mean()) < 1e-5 and abs(found.std() - 1) < 1e-5


@pytest.mark.parametrize("how", ["zscore", "rescale", "ct"])
@pytest.mark.parametrize("value", [0.0, 7.1, -3e7])
def test_constant_scans_become_zero(how: str, value: float) -> None:
    given = plan(normalisation=(how,), intensities=(Intensity(value, 0, value, value),))
    assert not preprocess(scan(np.full((1, 4, 4, 4), value)), given).array.any()


def test_two_axes() -> None:
    rng = np.random.default_rng(4)
    image = rng.random((1, 20, 30)).astype(np.float32)
    one = preprocess(scan(image, (0.5, 1.0)), plan((1.0, 1.5)))
    assert one.array.shape == (1, 10, 20)
    assert one.placement.spacing == (1.0, 1.5)
    label = (image[0] > 0.5).astype(np.uint8)
    assert preprocess_label(label, one.placement).shape == (10, 20)
    assert restore(torch.rand(3, 10, 20), one.placement, plan((1.0, 1.5))).shape == (20, 30)


def test_placement_survives_json() -> None:
    placement = preprocess(scan(np.ones((1, 4, 5, 6))), plan((2.0, 1.0, 1.0))).placement
    assert Placement.from_dict(json.loads(json.dumps(placement.to_dict()))) == placement


def test_shapes_keep_the_extent() -> None:
    assert resampled_shape((10, 3, 1), (1, 2, 0.1), (0.5, 2, 5)) == (20, 3, 1)


def test_refusals_name_the_file() -> None:
    image = np.ones((1, 4, 4, 4))
    image[0, 1, 2, 3] = np.nan
    with pytest.raises(DataError, match=r"scan\.nii\.gz: has voxels that are not finite"):
        preprocess(scan(image), plan())
    with pytest.raises(DataError, match=r"scan\.nii\.gz: has 2 channels of 3 axes.*MRI"):
        preprocess(scan(np.ones((2, 4, 4, 4))), plan())
    with pytest.raises(DataError, match=r"1 channels of 2 axes"):
        preprocess(scan(np.ones((1, 4, 4))), plan())
    for affine in (np.zeros((4, 4)), np.full((4, 4), np.nan)):
        broken = Scan(np.ones((1, 4, 4, 4), np.float32), Grid((4, 4, 4), affine), Path("x.nii"))
        with pytest.raises(DataError, match=r"x\.nii: the affine gives an axis no direction"):
            preprocess(broken, plan())
    placement = preprocess(scan(np.ones((1, 4, 4, 4))), plan()).placement
    with pytest.raises(DataError, match="label has grid"):
        preprocess_label(np.ones((4, 4, 5), np.uint8), placement)
    with pytest.raises(ValueError, match="expected probabilities of shape"):
        restore(torch.ones(3, 4, 4, 5), placement, plan())

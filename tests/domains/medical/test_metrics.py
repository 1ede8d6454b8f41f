"""Scores against brute force, spheres, MONAI, and what an empty mask may not gain."""

from __future__ import annotations

import warnings
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist

from domains.medical.metrics import BEST, SCORES, mask_scores, score_case
from shared_runtime.errors import DataError


def blobs(shape: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    one, two = (gaussian_filter(rng.normal(size=shape), 1.5) > 0.04 for _ in range(2))
    return one, two


def ball(shape: tuple[int, ...], spacing: tuple[float, ...], centre: float, r: float) -> np.ndarray:
    """A ball in mm, `centre` mm right of the middle along the first axis."""
    grid = np.indices(shape).astype(float)
    middle = [(n - 1) / 2 for n in shape]
    mm = [(grid[i] - middle[i]) * spacing[i] for i in range(len(shape))]
    mm[0] = mm[0] - centre
    return sum(x**2 for x in mm) <= r**2


def brute_force(p: np.ndarray, q: np.ndarray, spacing: tuple[float, ...]) -> dict[str, float]:
    """Surfaces voxel by voxel, and every distance between them."""

    def surface(mask: np.ndarray) -> np.ndarray:
        points = []
        for at in zip(*np.nonzero(mask), strict=True):
            for axis, step in product(range(mask.ndim), (-1, 1)):
                other = list(at)
                other[axis] += step
                outside = not 0 <= other[axis] < mask.shape[axis]
                if outside or not mask[tuple(other)]:
                    points.append(np.array(at) * spacing)
                    break
        return np.array(points)

    between = cdist(surface(p), surface(q))
    there, back = between.min(1), between.min(0)
    both = np.concatenate([there, back])
    return {
        "hd95": max(np.percentile(there, 95), np.percentile(back, 95)),
        "assd": both.mean(),
        "nsd": (both <= 1.5).mean(),
        "dice": 2 * (p & q).sum() / (p.sum() + q.sum()),
        "iou": (p & q).sum() / (p | q).sum(),
        "volume_error": abs(p.sum() - q.sum()) / q.sum(),
    }


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("shape", "spacing"), [((9, 12, 7), (0.7, 1.3, 4.0)), ((14, 17), (0.5, 2.0))]
)
def test_scores_are_those_of_brute_force(
    shape: tuple[int, ...], spacing: tuple[float, ...], seed: int
) -> None:
    p, q = blobs(shape, seed)
    found = mask_scores(p, q, spacing, tolerance=1.5)
    for name, value in brute_force(p, q, spacing).items():
        assert found[name] == pytest.approx(value, rel=1e-12), name


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 1.3, 4.0)])
def test_scores_are_monais(spacing: tuple[float, ...]) -> None:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.metrics.hausdorff_distance import compute_hausdorff_distance
        from monai.metrics.meandice import compute_dice
        from monai.metrics.meaniou import compute_iou
        from monai.metrics.surface_dice import compute_surface_dice
        from monai.metrics.surface_distance import compute_average_surface_distance

        p, q = blobs((20, 24, 18), 5)
        found = mask_scores(p, q, spacing, tolerance=1.5)
        a, b = (torch.from_numpy(mask[None, None]).float() for mask in (p, q))
        options = {"include_background": True, "spacing": spacing}
        theirs = {
            "hd95": compute_hausdorff_distance(a, b, percentile=95, **options),
            "assd": compute_average_surface_distance(a, b, symmetric=True, **options),
            "nsd": compute_surface_dice(a, b, [1.5], **options),
            "dice": compute_dice(a, b),
            "iou": compute_iou(a, b),
        }
    for name, value in theirs.items():
        assert found[name] == pytest.approx(float(value), rel=1e-5), name


@pytest.mark.parametrize("tolerance", [1.0, 1.5, 2.0])
def test_surface_elements_between_voxels_differ_by_less_than_a_voxel(tolerance: float) -> None:
    """DeepMind's form, as MONAI has it with `use_subvoxels`, lies between ours a voxel off."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.metrics.surface_dice import compute_surface_dice

        shape, spacing = (40, 40, 40), (1.0, 1.0, 1.0)
        p, q = ball(shape, spacing, 0.0, 12), ball(shape, spacing, 3.0, 12)
        a, b = (torch.from_numpy(mask[None, None]).float() for mask in (p, q))
        areas = compute_surface_dice(a, b, [tolerance], True, spacing=spacing, use_subvoxels=True)
    low, ours, high = (
        mask_scores(p, q, spacing, tolerance=tolerance + by)["nsd"] for by in (-1, 0, 1)
    )
    assert low < float(areas) < high and abs(ours - float(areas)) > 1e-3


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 1.0, 2.0)])
def test_spheres_are_as_far_apart_as_geometry_says(spacing: tuple[float, ...]) -> None:
    shape = tuple(int(64 / s) for s in spacing)
    inner, outer = ball(shape, spacing, 0, 18), ball(shape, spacing, 0, 24)
    found = mask_scores(outer, inner, spacing, tolerance=4.0)
    step = max(spacing)
    assert found["hd95"] == pytest.approx(6, abs=step)
    assert found["assd"] == pytest.approx(6, abs=step / 2)
    assert found["nsd"] == 0.0
    assert mask_scores(outer, inner, spacing, tolerance=6 + step)["nsd"] > 0.99
    assert found["dice"] == pytest.approx(2 * 18**3 / (18**3 + 24**3), rel=0.03)
    assert found["volume_error"] == pytest.approx((24 / 18) ** 3 - 1, rel=0.03)
    assert found["volume"] == pytest.approx(4 / 3 * np.pi * 18**3 / 1000, rel=0.03)
    assert found["unit"] == "ml"
    difference = found["volume_predicted"] - found["volume"]
    assert found["volume_difference"] == pytest.approx(difference)


def test_a_shifted_ball_is_the_shift_away() -> None:
    spacing, shape = (0.5, 0.5, 0.5), (90, 60, 60)
    found = mask_scores(ball(shape, spacing, 5, 12), ball(shape, spacing, -1, 12), spacing)
    # The gap along the normal at angle a to the shift is nearly 6 |cos a|: its mean over a sphere
    # is 3, and 5 % of a sphere have |cos a| above 0.95.
    assert found["hd95"] == pytest.approx(6 * 0.95, abs=0.3)
    assert found["assd"] == pytest.approx(3, rel=0.1)


def test_the_area_of_2d_masks_is_in_square_centimetres() -> None:
    mask = np.zeros((20, 20), dtype=bool)
    mask[:10] = True
    found = mask_scores(mask, mask, (1.0, 0.5))
    assert (found["volume"], found["unit"]) == (1.0, "cm2")


def test_a_perfect_mask_has_the_best_scores() -> None:
    mask, _ = blobs((9, 12, 7), 0)
    found = mask_scores(mask, mask, (1.0, 2.0, 3.0), tolerance=0.1)
    assert {name: found[name] for name in SCORES} == {name: BEST[name] for name in SCORES}


def test_empty_masks_follow_the_policy() -> None:
    mask, _ = blobs((9, 12, 7), 0)
    empty, spacing = np.zeros_like(mask), (1.0, 2.0, 3.0)
    neither = mask_scores(empty, empty, spacing)
    assert neither["present"] == "neither" and all(np.isnan(neither[name]) for name in SCORES)
    missed, invented = mask_scores(empty, mask, spacing), mask_scores(mask, empty, spacing)
    assert (missed["present"], invented["present"]) == ("truth", "prediction")
    diagonal = np.sqrt(9**2 + 24**2 + 21**2)
    for found in (missed, invented):
        assert found["dice"] == found["iou"] == found["nsd"] == 0 and found["volume_error"] == 1
        assert found["hd95"] == found["assd"] == pytest.approx(diagonal)
    assert missed["fn"] == mask.sum() and invented["fp"] == mask.sum()
    assert missed["tn"] == invented["tn"] == (~mask).sum() and neither["tn"] == mask.size


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([(4, 5, 3), (6, 7)]))
def test_predicting_nothing_is_never_better(seed: int, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.random(shape) < rng.uniform(0.02, 0.5)
    guess = rng.random(shape) < rng.uniform(0.02, 0.5)
    truth.flat[0] = guess.flat[-1] = True
    spacing = tuple(rng.uniform(0.3, 5, len(shape)))
    found, nothing = (mask_scores(x, truth, spacing) for x in (guess, np.zeros_like(guess)))
    for name in ("dice", "iou", "nsd"):
        assert found[name] >= nothing[name]
    for name in ("hd95", "assd"):
        assert found[name] <= nothing[name]
    swapped = mask_scores(truth, guess, spacing)
    for name in ("dice", "iou", "nsd", "hd95", "assd"):
        assert swapped[name] == pytest.approx(found[name], rel=1e-12)


def test_labels_are_scored_apart_and_where_they_are_does_not_matter() -> None:
    p, q = (
        np.where(a, 2, np.where(b, 7, 0)) for a, b in (blobs((9, 12, 7), 1), blobs((9, 12, 7), 2))
    )
    spacing = (0.7, 1.3, 4.0)
    labels = {"background": 0, "organ": 2, "absent": 5, "tumour": 7}
    rows = score_case("case", p, q, spacing, labels)
    assert [row["label"] for row in rows] == ["organ", "absent", "tumour"]
    for row in rows:
        alone = mask_scores(p == labels[row["label"]], q == labels[row["label"]], spacing)
        assert {name: row[name] for name in alone} == pytest.approx(alone, nan_ok=True)
    wide = [np.pad(mask, ((3, 9), (0, 5), (4, 1))) for mask in (p, q)]
    padded = score_case("case", *wide, spacing, labels)
    for one, two in zip(rows, padded, strict=True):
        assert {name: one[name] for name in SCORES} == pytest.approx(
            {name: two[name] for name in SCORES}, nan_ok=True
        )


def test_masks_on_another_grid_are_refused_in_one_line() -> None:
    mask = np.zeros((4, 4, 4), dtype=np.uint8)
    with pytest.raises(DataError, match=r"^case_7: the mask has shape \(4, 4, 4\).*\(4, 4, 5\)"):
        score_case("case_7", mask, np.zeros((4, 4, 5), dtype=np.uint8), (1, 1, 1), {"a": 1})
    with pytest.raises(DataError, match="case_7: expected masks of integers, got float32"):
        score_case("case_7", mask.astype(np.float32), mask, (1, 1, 1), {"a": 1})

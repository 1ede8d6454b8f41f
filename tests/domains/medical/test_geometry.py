"""Files that hold the same places are put in the same order; others are refused."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from domains.medical.data.case import Case, DataSet, Grid
from domains.medical.data.geometry import align, same, usable
from domains.medical.data.reading import read_label, read_scan
from shared_runtime.errors import DataError
from tests.domains.medical.made_scans import SHAPE, mask, oblique, save, volume

TURNS = [
    (order, flips)
    for order in itertools.permutations(range(3))
    for flips in itertools.product((False, True), repeat=3)
]


def turned(array: np.ndarray, affine: np.ndarray, order: tuple, flips: tuple) -> tuple:
    """Store the same places with axes in another order and direction; plain index arithmetic."""
    array = np.transpose(array, order)
    moved = affine.copy()
    moved[:3, :3] = affine[:3, list(order)]
    for axis, flip in enumerate(flips):
        if flip:
            array = np.flip(array, axis)
            moved[:3, 3] += moved[:3, axis] * (array.shape[axis] - 1)
            moved[:3, axis] *= -1
    return array, moved


@pytest.mark.parametrize(("order", "flips"), TURNS)
def test_every_turn_is_undone(order: tuple, flips: tuple) -> None:
    affine = oblique()
    array, moved = turned(volume(), affine, order, flips)
    back = align(array, Grid(array.shape, moved), Path("b.nii"), Grid(SHAPE, affine), Path("a.nii"))
    np.testing.assert_array_equal(back, volume())
    both = np.stack([array, array + 1])
    back = align(both, Grid(array.shape, moved), Path("b"), Grid(SHAPE, affine), Path("a"))
    np.testing.assert_array_equal(back, np.stack([volume(), volume() + 1]))


def test_labels_and_channels_are_turned_to_the_image(tmp_path: Path) -> None:
    labels = mask().copy()
    labels[2:4, 1, 3] = 0
    image = save(tmp_path / "a.nii.gz", volume())
    other = save(tmp_path / "b.nii.gz", *turned(volume(1), oblique(), (2, 0, 1), (1, 0, 1)))
    label = save(tmp_path / "l.nii.gz", *turned(labels, oblique(), (1, 0, 2), (0, 1, 1)))
    case = Case("a", "a", (image, other), label)
    names = {"background": 0, "liver": 1, "tumour": 2}
    data_set = DataSet((case,), ("CT", "PET"), names, (0, 1, 2), 3)
    np.testing.assert_array_equal(read_label(case, data_set), labels)
    np.testing.assert_array_equal(read_scan(case, 2).array, np.stack([volume(), volume(1)]))


def test_float32_headers_are_the_same_and_a_tenth_of_a_voxel_is_not() -> None:
    grid = Grid((512, 512, 300), oblique((0.7, 0.7, 1.0)))
    rounded = Grid(grid.shape, grid.affine.astype(np.float32).astype(np.float64))
    assert same(grid, rounded)
    for axis in range(3):
        moved = grid.affine.copy()
        moved[:3, 3] += 0.1 * moved[:3, axis]
        assert not same(grid, Grid(grid.shape, moved))
    stretched = grid.affine.copy()
    stretched[:3, 0] *= 1.001
    assert not same(grid, Grid(grid.shape, stretched))


def test_the_message_says_how_far_apart() -> None:
    there = oblique()
    there[0, 3] += 4.5
    with pytest.raises(DataError, match=r"b.nii: its voxels lie up to 4.5 mm from those of a.nii;"):
        align(volume(), Grid(SHAPE, there), Path("b.nii"), Grid(SHAPE, oblique()), Path("a.nii"))
    wide = oblique((0.8, 1.5, 3.5))
    with pytest.raises(DataError, match=r"spacing 0.8 x 1.5 x 3.5 against 0.8 x 1.5 x 3 mm"):
        align(volume(), Grid(SHAPE, wide), Path("b.nii"), Grid(SHAPE, oblique()), Path("a.nii"))
    with pytest.raises(DataError, match=r"has 7 x 6 x 4 voxels, a.nii has 7 x 6 x 5; resample"):
        align(
            volume()[..., 1:],
            Grid((7, 6, 4), oblique()),
            Path("b.nii"),
            Grid(SHAPE, oblique()),
            Path("a.nii"),
        )


def test_usable_affines() -> None:
    assert usable(oblique())
    assert usable(np.diag([1e-3, 1e3, 1, 1]))
    flat = oblique()
    flat[:3, 2] = flat[:3, 0]
    assert not usable(flat)
    assert not usable(np.diag([1.0, 0, 1, 1]))
    assert not usable(np.diag([np.nan, 1.0, 1, 1]))

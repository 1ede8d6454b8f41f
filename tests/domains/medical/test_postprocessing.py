"""Largest components and holes, against a search voxel by voxel."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from domains.medical.postprocessing import filled_holes, largest_components, postprocess

MASKS = arrays(
    np.uint8, array_shapes(min_dims=2, max_dims=3, max_side=5), elements=st.integers(0, 2)
)
Voxel = tuple[int, ...]


def neighbours(voxel: Voxel, shape: Voxel, corners: bool) -> Iterator[Voxel]:
    for step in itertools.product((-1, 0, 1), repeat=len(voxel)):
        if any(step) and (corners or sum(map(abs, step)) == 1):
            there = tuple(v + s for v, s in zip(voxel, step, strict=True))
            if all(0 <= t < n for t, n in zip(there, shape, strict=True)):
                yield there


def components(mask: np.ndarray, index: int, corners: bool) -> list[set[Voxel]]:
    """Connected voxels of a class by flood fill, in the order of their first voxels."""
    left = {tuple(map(int, v)) for v in np.argwhere(mask == index)}
    found = []
    for start in sorted(left):
        if start not in left:
            continue
        component, queue = set(), [start]
        left.discard(start)
        while queue:
            voxel = queue.pop()
            component.add(voxel)
            for there in neighbours(voxel, mask.shape, corners):
                if there in left:
                    left.discard(there)
                    queue.append(there)
        found.append(component)
    return found


@given(MASKS)
def test_largest_components_by_search(mask: np.ndarray) -> None:
    expected = np.zeros_like(mask)
    for index in (1, 2):
        found = components(mask, index, corners=True)
        for voxel in max(found, key=len, default=set()):
            expected[voxel] = index
    assert np.array_equal(largest_components(mask), expected)


@given(MASKS)
def test_filled_holes_by_search(mask: np.ndarray) -> None:
    expected = mask.copy()
    for hole in components(mask, 0, corners=False):
        at_border = any(
            v == 0 or v == n - 1 for x in hole for v, n in zip(x, mask.shape, strict=True)
        )
        around = {int(mask[t]) for x in hole for t in neighbours(x, mask.shape, False)} - {0}
        if not at_border and len(around) == 1:
            for voxel in hole:
                expected[voxel] = around.copy().pop()
    assert np.array_equal(filled_holes(mask), expected)


@given(MASKS, st.booleans(), st.booleans())
def test_no_class_takes_from_another(mask: np.ndarray, largest: bool, holes: bool) -> None:
    before = mask.copy()
    after = postprocess(mask, keep_largest=largest, fill_holes=holes)
    assert np.array_equal(mask, before), "the input is not changed"
    assert after.dtype == mask.dtype
    changed = (before != 0) & (after != before)
    allowed = after == 0 if not holes else np.isin(after, [0, *np.unique(before)])
    assert allowed[changed].all()
    if not largest:
        assert not changed.any()


@given(MASKS)
def test_the_numbers_of_classes_do_not_matter(mask: np.ndarray) -> None:
    swapped = np.array([0, 2, 1], dtype=np.uint8)
    for step in (largest_components, filled_holes):
        assert np.array_equal(step(swapped[mask]), swapped[step(mask)])


def test_a_lesion_in_an_organ_is_left_alone() -> None:
    mask = np.zeros((9, 9, 9), dtype=np.int16)
    mask[1:8, 1:8, 1:8] = 1
    mask[3:6, 3:6, 3:6] = 2
    mask[4, 4, 4] = 0
    mask[2, 2, 2] = 0
    filled = filled_holes(mask)
    assert filled[4, 4, 4] == 2, "the hole is in the lesion, not in the organ around it"
    assert filled[2, 2, 2] == 1
    assert ((mask == 2) <= (filled == 2)).all() and (filled != mask).sum() == 2


def test_a_hole_between_two_classes_stays_background() -> None:
    mask = np.array([[1, 1, 1, 1], [1, 0, 2, 2], [1, 1, 2, 2]], dtype=np.uint8)
    assert np.array_equal(filled_holes(mask), mask)


def test_components_go_before_holes() -> None:
    """An island in a hole goes to the background first, and the hole is then filled."""
    mask = np.ones((7, 7), dtype=np.uint8)
    mask[2:5, 2:5] = 0
    mask[3, 3] = 1
    assert (filled_holes(mask) == 1).all()
    mask[3, 3] = 2
    mask = np.pad(mask, ((0, 0), (0, 4)))
    mask[:, 9] = 2
    both = postprocess(mask, keep_largest=True, fill_holes=True)
    assert (both[:, :7] == 1).all() and (both[:, 9] == 2).all()
    assert filled_holes(mask)[3, 3] == 2


@pytest.mark.parametrize("shape", [(4, 5), (3, 4, 5)])
def test_empty_and_full_masks(shape: tuple[int, ...]) -> None:
    for value in (0, 1):
        mask = np.full(shape, value, dtype=np.uint8)
        assert np.array_equal(postprocess(mask, keep_largest=True, fill_holes=True), mask)


def test_neither_is_done_unasked() -> None:
    mask = np.array([[1, 1, 1, 0, 1], [1, 0, 1, 0, 0], [1, 1, 1, 0, 0]], dtype=np.uint8)
    assert np.array_equal(postprocess(mask, keep_largest=False, fill_holes=False), mask)
    assert postprocess(mask, keep_largest=True, fill_holes=False).sum() == 8
    assert postprocess(mask, keep_largest=False, fill_holes=True).sum() == 10

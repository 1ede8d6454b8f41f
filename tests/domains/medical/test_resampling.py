"""Resampling against SciPy, whose code is another; slabs against no slabs; no holes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from domains.medical.data import resampling
from domains.medical.data.resampling import (
    argmax_slabs,
    linear_slabs,
    resample_image,
    resample_label,
)

GRIDS = [
    ((9, 7, 5), (12, 11, 9)),
    ((9, 7, 5), (4, 7, 3)),
    ((6, 11, 8), (13, 5, 8)),
    ((1, 6, 6), (4, 6, 3)),
    ((10, 8), (17, 5)),
    ((3, 9), (3, 20)),
]


def zoomed(values: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """SciPy's linear interpolation between grids of one extent."""
    factors = [new / old for new, old in zip(shape, values.shape, strict=True)]
    return ndimage.zoom(values, factors, order=1, mode="nearest", grid_mode=True)


def joined(slabs: object, shape: Sequence[int], kind: type) -> np.ndarray:
    out = np.full(shape, 77, kind)
    for rows, slab in slabs:  # type: ignore[attr-defined]
        out[rows] = slab
    return out


@pytest.mark.parametrize(("old", "new"), GRIDS)
@pytest.mark.parametrize("slab", [1, 2**26])
def test_argmax_is_of_interpolated_values(
    old: tuple[int, ...], new: tuple[int, ...], slab: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resampling, "SLAB_BYTES", slab)
    scores = np.random.default_rng(0).random((4, *old))
    expected = np.stack([zoomed(one, new) for one in scores])
    found = joined(argmax_slabs(torch.from_numpy(scores).float(), new), new, np.uint8)
    first, second = np.sort(expected, axis=0)[[-1, -2]]
    clear = first - second > 1e-5
    assert clear.mean() > 0.9
    assert (found == expected.argmax(axis=0))[clear].all()
    linear = joined(linear_slabs(torch.from_numpy(scores[:1]).float(), new), new, np.float32)
    np.testing.assert_allclose(linear, expected[0], atol=1e-5)


@pytest.mark.parametrize(("old", "new"), GRIDS)
@pytest.mark.parametrize("slab", [1, 2**26])
def test_labels_take_the_largest_share(
    old: tuple[int, ...], new: tuple[int, ...], slab: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resampling, "SLAB_BYTES", slab)
    label = np.random.default_rng(1).choice([0, 3, 7, 200], old).astype(np.uint8)
    shares = np.stack([zoomed((label == k).astype(float), new) for k in (0, 3, 7, 200)])
    first, second = np.sort(shares, axis=0)[[-1, -2]]
    clear = first - second > 1e-5
    found = resample_label(label, new)
    assert found.dtype == np.uint8 and clear.mean() > 0.3
    assert (found == np.array([0, 3, 7, 200])[shares.argmax(axis=0)])[clear].all()


def test_no_holes_between_classes() -> None:
    """Three wedges that fill the grid: 0.5 for each class leaves holes, the largest does not."""
    at = np.stack(np.meshgrid(*[np.linspace(-1, 1, 15)] * 3, indexing="ij"))
    label = (np.floor((np.arctan2(at[0], at[1]) + np.pi) / (2 * np.pi) * 3).clip(0, 2) + 1).astype(
        np.uint8
    )
    indicators = np.stack([label == k for k in range(4)]).astype(np.float32)
    shape = (40, 40, 40)
    halves = np.stack([zoomed(one, shape) > 0.5 for one in indicators])
    assert not halves.any(axis=0).all()
    assert (joined(argmax_slabs(torch.from_numpy(indicators), shape), shape, np.uint8) > 0).all()
    assert (resample_label(label, shape) > 0).all()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=3, max_size=3),
    st.lists(st.integers(1, 14), min_size=3, max_size=3),
    st.permutations([0, 1, 2]),
    st.lists(st.booleans(), min_size=3, max_size=3),
)
def test_turning_and_resampling_commute(
    old: list[int], new: list[int], axes: list[int], flips: list[bool]
) -> None:
    steps = tuple(slice(None, None, -1 if flip else 1) for flip in flips)
    image = np.random.default_rng(2).standard_normal((1, *old)).astype(np.float32)

    def turned(array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(array[0].transpose(axes)[steps])[None]

    first = turned(resample_image(image, new))
    second = resample_image(turned(image), [new[axis] for axis in axes])
    np.testing.assert_allclose(first, second, atol=2e-5)


def test_cubic_follows_smooth_images_better_than_linear() -> None:
    def wave(shape: Sequence[int]) -> np.ndarray:
        at = np.meshgrid(*[(np.arange(n) + 0.5) / n for n in shape], indexing="ij")
        return np.prod([np.cos(2.5 * np.pi * x) for x in at], axis=0)[None].astype(np.float32)

    new = (31, 20, 26)
    inside = (slice(None), *[slice(3, -3)] * 3)
    image, exact = wave((22, 24, 20)), wave(new)
    cubic = np.abs(resample_image(image, new) - exact)[inside].max()
    linear = np.abs(resample_image(image, new, [True] * 3) - exact)[inside].max()
    assert cubic < 0.03 and cubic < 0.6 * linear


def test_constants_and_equal_grids_stay() -> None:
    image = np.full((2, 5, 6, 7), -3.25, np.float32)
    np.testing.assert_allclose(resample_image(image, (9, 2, 7)), -3.25, rtol=1e-6)
    noise = np.random.default_rng(0).standard_normal((1, 4, 5)).astype(np.float32)
    assert (resample_image(noise, (4, 5)) == noise).all()
    scores = torch.rand(3, 4, 5)
    assert (joined(argmax_slabs(scores, (4, 5)), (4, 5), int) == scores.argmax(0).numpy()).all()


def test_fine_texture_does_not_turn_into_noise() -> None:
    """A chessboard is grey from far away; some of its voxels alone are black and white."""
    board = (np.indices((32, 32)).sum(axis=0) % 2).astype(np.float32)[None]
    small = resample_image(board, (7, 7))
    assert np.abs(small[0, 1:-1, 1:-1] - 0.5).max() < 0.1


@pytest.mark.parametrize("grid", [(9, 1, 1), (1, 9, 1), (1, 1, 9), (9, 1)])
def test_lines_shrink_as_volumes_do(grid: tuple[int, ...]) -> None:
    line = np.random.default_rng(0).standard_normal(9).astype(np.float32)
    thick = np.broadcast_to(line[:, None, None], (9, 4, 4))[None].copy()
    shape = [4 if n == 9 else 1 for n in grid]
    found = resample_image(line.reshape(1, *grid), shape).ravel()
    np.testing.assert_allclose(found, resample_image(thick, (4, 4, 4))[0, :, 0, 0], atol=1e-6)


def test_ties_go_to_the_lower_class_and_many_classes_fit() -> None:
    assert not joined(argmax_slabs(torch.ones(3, 4, 4), (6, 6)), (6, 6), int).any()
    scores = torch.zeros(300, 2, 2)
    scores[299, 0], scores[150, 1] = 1, 1
    found = joined(argmax_slabs(scores, (2, 2)), (2, 2), np.int16)
    assert found.tolist() == [[299, 299], [150, 150]]


def test_slabs_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0
    original = resampling._slab

    def watched(values: torch.Tensor, at: torch.Tensor, plane: Sequence[int]) -> torch.Tensor:
        nonlocal largest
        found = original(values, at, plane)
        largest = max(largest, found.numel() * 4, values.numel() * 4)
        return found

    monkeypatch.setattr(resampling, "_slab", watched)
    monkeypatch.setattr(resampling, "SLAB_BYTES", 2**18)
    probabilities = torch.rand(5, 30, 20, 20)
    shape = (90, 50, 50)
    joined(argmax_slabs(probabilities, shape), shape, np.uint8)
    resample_label(
        np.random.default_rng(0).integers(0, 5, (90, 50, 50)).astype(np.uint8), (8, 20, 20)
    )
    assert 2**16 < largest <= 2**18

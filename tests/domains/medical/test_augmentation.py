"""Each change against SciPy or by hand, and each patch changed as if it were alone."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from domains.medical.data.augmentation import (
    Changes,
    change_intensities,
    draw,
    move,
    move_with_label,
    movements,
    smoothing,
)
from tests.domains.medical.small_cases import plan


def still(count: int, dims: int = 3, **changed: Any) -> Changes:
    """No change but those given."""
    ones, zeros = np.ones(count), np.zeros(count)
    return replace(
        Changes(
            flips=np.zeros((count, dims), bool),
            angles=np.zeros((count, 3 if dims == 3 else 1)),
            zoom=ones,
            blur=zeros,
            resolution=ones,
            noise=zeros,
            brightness=ones,
            contrast=ones,
            gamma=ones,
            negative_gamma=ones,
            seeds=np.arange(count),
        ),
        **{name: np.asarray(value) for name, value in changed.items()},
    )


def smooth_image(*shape: int) -> torch.Tensor:
    noise = np.random.default_rng(0).standard_normal(shape)
    return torch.from_numpy(ndimage.gaussian_filter(noise, (0, 0, *[1] * (len(shape) - 2)))).float()


@pytest.mark.parametrize(
    ("shape", "spacing", "angles"),
    [
        ((12, 9, 14), (1, 1, 1), [[0.3, -0.2, 0.5], [0, 0, 0], [-0.5, 0.1, 0.2]]),
        ((12, 9, 14), (0.7, 2, 1.3), [[0.3, -0.2, 0.5], [0, 0, 0], [-0.5, 0.1, 0.2]]),
        ((13, 20), (1, 2), [[0.4], [0], [3.0]]),
    ],
)
def test_moves_as_scipy_does(shape: Any, spacing: Any, angles: Any) -> None:
    dims = len(shape)
    flips = np.zeros((3, dims), bool)
    flips[1, 0] = flips[2, -1] = True
    matrices = movements(still(3, dims, angles=angles, flips=flips, zoom=[0.8, 1, 1.3]), spacing)
    image = smooth_image(3, 2, *shape)
    size = tuple(n - 3 for n in shape)
    found = move(image, matrices, size).numpy()
    centre, middle = (np.array(shape) - 1) / 2, (np.array(size) - 1) / 2
    for row, matrix in enumerate(matrices):
        for channel in range(2):
            expected = ndimage.affine_transform(
                image[row, channel].numpy(),
                matrix,
                centre - matrix @ middle,
                output_shape=size,
                order=1,
                mode="grid-constant",
            )
            np.testing.assert_allclose(found[row, channel], expected, atol=2e-5)


def test_rotations_are_rigid_in_millimetres() -> None:
    bits = np.random.default_rng(0)
    changes = still(20, angles=bits.uniform(-3, 3, (20, 3)), zoom=bits.uniform(0.7, 1.4, 20))
    mm = np.diag([0.5, 0.8, 3.0])
    for matrix, zoom in zip(movements(changes, (0.5, 0.8, 3.0)), changes.zoom, strict=True):
        rigid = mm @ matrix @ np.linalg.inv(mm) * zoom
        np.testing.assert_allclose(rigid @ rigid.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(rigid) == pytest.approx(1)


def test_a_flip_is_a_flip_and_zoom_enlarges() -> None:
    image = smooth_image(1, 1, 6, 7, 8)
    flips = still(1, flips=[[True, False, True]])
    found = move(image, movements(flips, (1, 1, 1)), (6, 7, 8))
    torch.testing.assert_close(found, image.flip(2, 4))
    ball = torch.from_numpy(np.linalg.norm(np.indices((31, 31)) - 15, axis=0) < 6).float()[
        None, None
    ]
    larger = move(ball, movements(still(1, 2, zoom=[1.4]), (1, 1)), (31, 31))
    assert larger.sum() / ball.sum() == pytest.approx(1.4**2, rel=0.05)


@pytest.mark.parametrize("classes", [4, 12])
def test_labels_move_with_their_image(classes: int) -> None:
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 4, (4, 3, 3, 3)) * (classes - 1) // 3
    label = torch.from_numpy(coarse.repeat(6, 1).repeat(6, 2).repeat(6, 3).astype(np.int16))
    changes = still(4, angles=rng.uniform(-0.5, 0.5, (4, 3)), zoom=[0.8, 1.2, 1, 1.4])
    image = (label == classes - 1)[:, None].float()
    moved, found = move_with_label(image, label, movements(changes, (1, 1, 1)), (14,) * 3, classes)
    assert found.dtype == torch.int64 and set(found.unique().tolist()) <= set(np.unique(coarse) | 0)
    clear = (moved[:, 0] - 0.5).abs() > 0.25 if classes == 4 else (moved[:, 0] - 0.5).abs() > 0.49
    assert clear.float().mean() > 0.7
    assert ((found == classes - 1) == (moved[:, 0] > 0.5))[clear].all()


def test_no_holes_between_moved_labels() -> None:
    """Three classes that meet fill everything: none of what is inside becomes background."""
    label = (torch.arange(20)[:, None] + torch.arange(20)[None]) % 3 + 1
    changes = still(1, 2, angles=[[0.4]], zoom=[1.4])
    _, found = move_with_label(
        torch.zeros(1, 1, 20, 20), label[None], movements(changes, (1, 1)), (12, 12), 4
    )
    assert (found > 0).all()


def test_smoothing_is_a_blur() -> None:
    matrix = smoothing(40, np.array([0.8, 0.0]), np.array([1.0, 1.0]))
    np.testing.assert_allclose(matrix.sum(axis=2), 1, atol=1e-6)
    np.testing.assert_allclose(matrix[1], np.eye(40), atol=1e-6)
    signal = np.random.default_rng(0).standard_normal(40)
    expected = ndimage.gaussian_filter1d(signal, 0.8, truncate=8)
    np.testing.assert_allclose((matrix[0] @ signal)[7:-7], expected[7:-7], atol=1e-5)


@pytest.mark.parametrize(("size", "share"), [(40, 0.5), (41, 0.73), (7, 0.6), (5, 0.01)])
def test_smoothing_lowers_the_resolution(size: int, share: float) -> None:
    matrix = smoothing(size, np.zeros(1), np.array([share]))[0]
    signal = np.random.default_rng(0).standard_normal(size)
    cells = max(1, round(size * share))
    kept = signal[np.floor((np.arange(cells) + 0.5) * size / cells).astype(int)]
    at = (np.arange(size) + 0.5) * cells / size - 0.5
    np.testing.assert_allclose(matrix @ signal, np.interp(at, np.arange(cells), kept), atol=1e-5)


def test_smoothing_acts_on_every_axis() -> None:
    image = smooth_image(2, 2, 12, 10, 11)
    found = change_intensities(image.clone(), still(2, blur=[0.9, 0.0]))
    expected = ndimage.gaussian_filter(image[0, 1].numpy(), 0.9, truncate=8)
    np.testing.assert_allclose(found[0, 1, 4:-4, 4:-4, 4:-4], expected[4:-4, 4:-4, 4:-4], atol=1e-3)
    assert torch.equal(found[1], image[1])


def test_intensities_by_hand() -> None:
    image = torch.randn(1, 2, 9, 9, 9)
    axes = (2, 3, 4)

    def changed(**given: Any) -> torch.Tensor:
        return change_intensities(image.clone(), still(1, **given))

    torch.testing.assert_close(changed(brightness=[1.2]), image * 1.2)
    mean = image.mean(axes, keepdim=True)
    torch.testing.assert_close(changed(contrast=[0.8]), mean + 0.8 * (image - mean))
    more = changed(contrast=[1.25])
    assert more.max() <= image.max() and more.std() > image.std()
    for name in ("gamma", "negative_gamma"):
        found = changed(**{name: [1.5]})
        torch.testing.assert_close(found.mean(axes), image.mean(axes), atol=1e-5, rtol=0)
        torch.testing.assert_close(found.std(axes), image.std(axes), atol=1e-5, rtol=0)
        order = image[0, 0].flatten().argsort()
        assert (found[0, 0].flatten()[order].diff() >= -1e-6).all()
        skew = ((found - found.mean(axes, keepdim=True)) ** 3).mean()
        assert (skew > 0.1) if name == "gamma" else (skew < -0.1)
    assert (changed(noise=[0.3]) - image).std() == pytest.approx(0.3, rel=0.1)


def test_constant_patches_stay_finite() -> None:
    image = torch.zeros(1, 1, 5, 5)
    everything = still(1, 2, gamma=[0.7], negative_gamma=[1.4], contrast=[1.2], blur=[0.7])
    assert not change_intensities(image, everything).any()


@pytest.mark.parametrize("dims", [2, 3])
def test_each_patch_is_changed_as_if_alone(dims: int) -> None:
    changes = draw(np.random.default_rng(0), 60, plan((1.0,) * dims), "full", True)
    image = torch.randn(60, 2, *(11, 9, 10)[:dims])
    together = change_intensities(image.clone(), changes)
    changed = 0
    for row in range(60):
        alone = change_intensities(image[[row]].clone(), changes.take(np.array([row])))
        torch.testing.assert_close(together[[row]], alone, atol=1e-6, rtol=1e-5)
        changed += not torch.equal(together[row], image[row])
    assert 25 < changed < 58


def test_shares_and_levels() -> None:
    def of(level: str, flips: bool, spacing: tuple[float, ...] = (1, 1, 1)) -> Changes:
        return draw(np.random.default_rng(0), 4000, plan(spacing), level, flips)

    full = of("full", True)
    assert full.moved.mean() == pytest.approx(0.36, abs=0.03)
    assert full.flips.mean() == pytest.approx(0.5, abs=0.02)
    assert np.abs(full.angles).max() <= np.pi / 6
    for name, share in (("gamma", 0.3), ("contrast", 0.15), ("resolution", 0.25)):
        assert (getattr(full, name) != 1).mean() == pytest.approx(share, abs=0.03)
    assert (full.noise > 0).mean() == pytest.approx(0.1, abs=0.02)
    assert not of("full", False).flips.any() and of("full", False).moved.any()
    light, none = of("light", True), of("none", True)
    quiet = still(4000)
    for field in fields(Changes):
        if field.name not in ("seeds", "flips", "angles", "zoom"):
            assert (getattr(light, field.name) == getattr(quiet, field.name)).all()
        if field.name != "seeds":
            assert (getattr(none, field.name) == getattr(quiet, field.name)).all()
    assert light.moved.any() and light.flips.any()
    thick = of("light", True, (0.5, 0.5, 4))
    assert not thick.angles[:, :2].any() and np.abs(thick.angles[:, 2]).max() > 2

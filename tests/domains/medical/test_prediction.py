"""Whole scans: the mask lies where it should in the world, and bad scans are refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor, nn

from domains.medical.data.case import Grid, Scan
from domains.medical.data.config import DataConfig
from domains.medical.data.plan import Intensity, Plan
from domains.medical.prediction import Predicted, predict_scan
from shared_runtime.errors import DataError, UsageError

PLAN = Plan(
    spatial_dims=3,
    channels=("CT",),
    labels={"background": 0, "left": 1, "right": 2},
    values=(0, 10, 20),
    spacing=(1.0, 1.0, 1.0),
    patch_size=(32, 32, 32),
    normalisation=("ct",),
    intensities=(Intensity(0.0, 1.0, -10.0, 10.0),),
    batch_size=2,
)
FLAT = replace(
    PLAN,
    spatial_dims=2,
    labels={"background": 0, "lesion": 1},
    values=(0, 255),
    spacing=(0.5, 0.5),
    patch_size=(16, 16),
)


class Levels(nn.Module):
    """The class whose intensity is nearest, five voxels further right, anterior and superior."""

    def __init__(self, levels: Sequence[float], shift: int = 5) -> None:
        super().__init__()
        self.levels = torch.tensor(levels)
        self.shift = shift

    def forward(self, image: Tensor) -> Tensor:
        dims = image.ndim - 2
        moved = nn.functional.pad(image, [self.shift, -self.shift] * dims)
        return -20 * (moved - self.levels.view(-1, *[1] * dims)).abs()


def config(**changes: Any) -> DataConfig:
    return DataConfig(path=Path("data"), **changes)


def predict(scan: Scan, plan: Plan = PLAN, **changes: Any) -> Predicted:
    keep = changes.pop("keep_probabilities", False)
    model = changes.pop("models", [Levels((0.0, -2.0, 2.0))])
    return predict_scan(
        model,
        scan,
        plan,
        config(**changes),
        batch_size=2,
        device=torch.device("cpu"),
        keep_probabilities=keep,
    )


def balls(points: np.ndarray) -> np.ndarray:
    """Intensity at points `[..., 3]` of the world: two balls with soft borders."""
    image = np.zeros(points.shape[:-1])
    for centre, radius, level in (((-20, 1, 2), 15, -2.0), ((14, -4, 3), 17, 2.0)):
        distance = np.linalg.norm(points - np.array(centre), axis=-1)
        image += level / (1 + np.exp((distance - radius) / 0.7))
    return image.astype(np.float32)


def scan_of(shape: tuple[int, ...], affine: np.ndarray) -> Scan:
    grid = Grid(shape, affine)
    return Scan(balls(world(grid, np.indices(shape)))[None], grid, Path("scan.nii.gz"))


def world(grid: Grid, indices: np.ndarray) -> np.ndarray:
    return np.moveaxis(indices, 0, -1) @ grid.affine[:3, :3].T + grid.affine[:3, 3]


def in_world(mask: np.ndarray, grid: Grid, points: np.ndarray) -> np.ndarray:
    """Class at each point of the world: the one with most of the voxels around it, 0 outside."""
    index = (points - grid.affine[:3, 3]) @ np.linalg.inv(grid.affine[:3, :3]).T
    at = np.moveaxis(index, -1, 0)
    shares = [map_coordinates((mask == k).astype(float), at, order=1) for k in range(3)]
    return np.argmax(shares, axis=0)


def dice(a: np.ndarray, b: np.ndarray, index: int) -> float:
    return float(
        2 * ((a == index) & (b == index)).sum() / ((a == index).sum() + (b == index).sum())
    )


RAS = np.array([[1, 0, 0, -44.0], [0, 1, 0, -30.0], [0, 0, 1, -30.0], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def straight() -> tuple[Scan, Predicted]:
    scan = scan_of((84, 60, 64), RAS)
    return scan, predict(scan)


def test_the_mask_is_where_the_model_says(straight: tuple[Scan, Predicted]) -> None:
    scan, found = straight
    points = world(scan.grid, np.indices(scan.grid.shape)) - 5
    intended = np.abs(balls(points)[..., None] - [0, -2, 2]).argmin(-1)
    assert dice(found.mask, intended, 1) > 0.99 and dice(found.mask, intended, 2) > 0.99


@pytest.mark.parametrize(
    ("order", "flipped"),
    [((2, 0, 1), (0, 2)), ((1, 0, 2), (0, 1, 2)), ((0, 2, 1), (1,))],
    ids=str,
)
def test_permuted_and_flipped_is_the_same_mask(
    straight: tuple[Scan, Predicted], order: tuple[int, ...], flipped: tuple[int, ...]
) -> None:
    scan, found = straight
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = scan.grid.affine[:3, list(order)], scan.grid.affine[:3, 3]
    array = scan.array[0].transpose(order)
    for axis in flipped:
        affine[:3, 3] += affine[:3, axis] * (array.shape[axis] - 1)
        affine[:3, axis] *= -1
    array = np.flip(array, flipped)
    other = predict(Scan(array[None], Grid(array.shape, affine), scan.source))
    assert np.array_equal(other.mask, np.flip(found.mask.transpose(order), flipped))


@pytest.mark.parametrize(
    "columns",
    [
        [[0, -0.7, 0, 39], [0, 0, -1.1, 29], [0.8, 0, 0, -30]],
        [[-1.2, 0, 0, 39], [0, -0.6, 0, 29], [0, 0, 0.9, -30]],
        [[0, 0, 0.5, -44], [1.2, 0, 0, -30], [0, -0.9, 0, 33]],
    ],
    ids=["ALS", "LPS", "ARI"],
)
def test_turned_and_respaced_is_the_same_place(
    straight: tuple[Scan, Predicted], columns: list[list[float]]
) -> None:
    scan, found = straight
    affine = np.array([*columns, [0, 0, 0, 1]], dtype=float)
    extent = np.abs(np.linalg.inv(affine[:3, :3]) @ np.array([83, 59, 63]))
    other = scan_of(tuple(int(n) + 1 for n in extent), affine)
    again = predict(other)
    points = world(scan.grid, np.indices(scan.grid.shape))
    same = in_world(again.mask, other.grid, points)
    for index in (1, 2):
        assert dice(same, found.mask, index) >= 0.98
    shifted = in_world(again.mask, other.grid, points + 2)
    assert dice(shifted, found.mask, 1) < 0.9, "this would notice two millimetres"


def test_volumes_come_from_the_affine(straight: tuple[Scan, Predicted]) -> None:
    scan, found = straight
    table = found.table.set_index("label")
    assert list(table.index) == ["left", "right"] and list(table["value"]) == [10, 20]
    assert table.loc["left", "voxels"] == (found.mask == 1).sum()
    assert table.loc["right", "ml"] == pytest.approx(4 / 3 * np.pi * 17**3 / 1000, rel=0.05)
    sheared = scan.grid.affine.copy()
    sheared[0, 2] = 0.2
    sheared[2, 2] = 2.0
    other = predict(Scan(scan.array, Grid(scan.grid.shape, sheared), scan.source))
    row = other.table.set_index("label").loc["left"]
    assert row["ml"] == pytest.approx(row["voxels"] * 2 / 1000)


def test_maps_and_probabilities_are_on_the_scans_grid() -> None:
    scan = scan_of((40, 31, 33), np.diag([-2.0, 2, 2, 1]) + 0)
    found = predict(scan, uncertainty=True, mirror=True, keep_probabilities=True)
    assert set(found.maps) == {"uncertainty", "disagreement"}
    assert found.probabilities is not None
    assert np.allclose(found.probabilities.sum(0), 1, atol=1e-5)
    assert np.array_equal(found.probabilities.argmax(0), found.mask)
    for values in found.maps.values():
        assert values.shape == found.mask.shape and values.dtype == np.float32
        assert values.min() >= 0 and values.max() <= 1
    assert {"uncertainty", "disagreement"} < set(found.table.columns)


def test_what_is_cropped_away_is_background() -> None:
    array = np.zeros((1, 40, 40, 40), dtype=np.float32)
    array[0, 12:30, 12:30, 12:30] = 4
    plan = replace(PLAN, crop=True, normalisation=("rescale",))
    found = predict(
        Scan(array, Grid((40, 40, 40), np.eye(4)), Path("scan.nii.gz")),
        plan,
        models=[Levels((9.0, 8.0, 0.0), 0)],
        keep_probabilities=True,
    )
    assert found.probabilities is not None
    inside = np.zeros((40, 40, 40), dtype=bool)
    inside[12:30, 12:30, 12:30] = True
    assert (found.probabilities[0][~inside] == 1).all()
    assert np.allclose(found.probabilities.sum(0), 1, atol=1e-5)
    assert (found.mask[~inside] == 0).all() and (found.mask[inside] != 0).all()


def test_two_dimensional_images() -> None:
    array = np.zeros((1, 30, 21), dtype=np.float32)
    array[0, 8:20, 5:15] = 2
    array[0, 12:14, 8:10] = 0
    scan = Scan(array, Grid((30, 21), np.diag([0.5, 0.5, 1])), Path("image.png"))
    plain = predict(scan, FLAT, models=[Levels((0, 2), 0)])
    assert np.array_equal(plain.mask, array[0] == 2)
    filled = predict(scan, FLAT, models=[Levels((0, 2), 0)], fill_holes=True)
    assert filled.table.to_dict("records") == [
        {"label": "lesion", "value": 255, "voxels": 120, "mm2": 30.0}
    ]


def test_models_are_averaged() -> None:
    scan = scan_of((20, 20, 20), np.diag([3.0, 3, 3, 1]))
    one, two = Levels((0.0, -2.0, 2.0), 0), Levels((0.0, -1.0, 5.0), 0)
    each, (both,) = (
        [predict(scan, models=models, keep_probabilities=True).probabilities for models in some]
        for some in ([[one], [two]], [[one, two]])
    )
    assert both is not None and each[0] is not None and each[1] is not None
    assert np.allclose(both, (each[0] + each[1]) / 2, atol=1e-5)
    assert not np.allclose(both, each[0], atol=1e-2)


def broken(**changes: Any) -> Scan:
    shape = changes.get("shape", (1, 6, 7, 8))
    array = np.ones(shape, dtype=np.float32)
    if "value" in changes:
        array[0, 3, 4, 5] = changes["value"]
    return Scan(array, Grid(shape[1:], changes.get("affine", np.eye(4))), Path("bad.nii.gz"))


@pytest.mark.parametrize(
    ("scan", "message"),
    [
        (broken(shape=(2, 6, 7, 8)), "has 2 channels of 3 axes, but the plan takes 1"),
        (broken(shape=(1, 6, 7)), "has 1 channels of 2 axes, but the plan takes 1"),
        (broken(shape=(1, 6, 0, 8)), "is empty, 6 x 0 x 8 voxels"),
        (broken(value=np.nan), "not finite"),
        (broken(value=-np.inf), "not finite"),
        (broken(affine=np.zeros((4, 4))), "no direction"),
    ],
)
def test_bad_scans_are_refused(scan: Scan, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        predict(scan)
    assert str(caught.value).startswith("bad.nii.gz") and "\n" not in str(caught.value)


def test_flips_that_training_had_not_are_refused() -> None:
    with pytest.raises(UsageError, match=r"data.mirror: the model was trained with data.flips=f"):
        predict(broken(), mirror=True, flips=False)


def test_one_voxel_is_a_scan() -> None:
    assert predict(broken(shape=(1, 1, 1, 1))).mask.shape == (1, 1, 1)


LARGE = """
import resource, sys
import numpy as np, torch
from pathlib import Path
from domains.medical.data.case import Grid, Scan
from domains.medical.data.config import DataConfig
from domains.medical.data.plan import Intensity, Plan
from domains.medical.prediction import predict_scan
torch.set_num_threads(1)
torch.manual_seed(0)
blocks = np.random.default_rng(0).normal(0, 200, (16, 16, 20)).astype(np.float32)
array = np.broadcast_to(blocks[:, None, :, None, :, None], (16, 32, 16, 32, 20, 30))
scan = Scan(
    array.reshape(1, 512, 512, 600), Grid((512, 512, 600), np.diag([-0.8, -0.8, 1, 1])), Path("ct")
)
names = ("background", "a", "b", "c", "d")
plan = Plan(
    3, ("CT",), dict(zip(names, range(5))), tuple(range(5)), tuple(map(float, sys.argv[1:])),
    (128, 128, 128), ("ct",), (Intensity(0.0, 200.0, -400.0, 400.0),), 2,
)
config = DataConfig(path=Path("."), uncertainty=True, keep_largest=True, fill_holes=True)
model = torch.nn.Conv3d(1, 5, 3, padding=1)
found = predict_scan([model], scan, plan, config, batch_size=2, device=torch.device("cpu"))
assert found.mask.shape == (512, 512, 600) and (found.table["voxels"] > 0).all()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


@pytest.mark.slow
@pytest.mark.parametrize("spacing", [("0.8", "0.8", "1"), ("0.75", "0.75", "0.9")], ids=str)
def test_a_large_scan_takes_less_than_8_gib(spacing: tuple[str, ...]) -> None:
    """512 x 512 x 600 voxels, five classes, from scan to tidied mask with an uncertainty map."""
    command = [sys.executable, "-c", LARGE, *spacing]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    print(f"{spacing}: peak {float(ended.stdout):.2f} GiB")
    assert float(ended.stdout) < 8

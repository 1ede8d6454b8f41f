"""Plans for data whose plan is known, and rules that every plan keeps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domains.medical.data.config import DataConfig
from domains.medical.data.fingerprint import Fingerprint
from domains.medical.data.plan import Intensity, Plan
from domains.medical.data.planning import halvings, make_plan, plan_patch, step_bytes
from shared_runtime.errors import UsageError
from tests.domains.medical.small_cases import data_set


def facts(
    shapes: Sequence[Sequence[int]],
    spacings: Sequence[Sequence[float]],
    boxes: Sequence[Sequence[int]] | None = None,
    channels: Sequence[str] = ("MRI",),
) -> Fingerprint:
    count = len(shapes)
    return Fingerprint(
        ids=tuple(map(str, range(count))),
        shapes=np.array(shapes),
        boxes=np.array(boxes or shapes),
        spacings=np.array(spacings, float),
        ranges=np.zeros((count, len(channels), 2)),
        voxels=np.ones((count, 3), int),
        intensities=(Intensity(1, 2, -3, 4),) * len(channels),
        labels=("background", "organ", "lesion"),
        channels=tuple(channels),
    )


def planned(found: Fingerprint, batch_size: int = 0, **changed: Any) -> Plan:
    dims = found.shapes.shape[1]
    config = DataConfig(path=Path("data"), **changed)
    return make_plan(found, data_set(dims, found.channels), config, batch_size)


def test_small_volumes_are_seen_whole() -> None:
    """Hippocampus: nnU-Net plans 40 x 56 x 40 and batches of 9 on all 260 cases."""
    found = facts([(35, 50, 36)] * 260, [(1, 1, 1)] * 260)
    plan = planned(found)
    assert plan.patch_size == (40, 56, 40) and plan.batch_size == 9
    assert plan.spacing == (1, 1, 1) and plan.normalisation == ("zscore",) and not plan.crop
    assert Plan.from_dict(plan.to_dict()) == plan


def test_thick_slices_keep_a_finer_tenth() -> None:
    shapes = [(320, 320, 20)] * 10
    spacings = [(0.6, 0.6, 3.0 + 0.1 * number) for number in range(10)]
    plan = planned(facts(shapes, spacings))
    assert plan.spacing == pytest.approx((0.6, 0.6, 3.09))
    assert plan.patch_size[2] >= 20 and plan.patch_size[0] >= 128
    coarse = planned(facts([(320, 320, 200)] * 10, spacings))
    assert coarse.spacing == pytest.approx((0.6, 0.6, 3.45))


def test_large_volumes_are_cut_to_fit_the_memory() -> None:
    found = facts([(512, 512, 300)] * 40, [(0.8, 0.8, 1.0)] * 40, channels=("CT",))
    plan = planned(found)
    assert plan.normalisation == ("ct",) and plan.batch_size >= 2
    assert step_bytes(plan.patch_size, plan.batch_size) <= 8e9
    mm = np.array(plan.patch_size) * plan.spacing
    assert mm.max() / mm.min() < 1.5
    more = planned(found, memory_gb=24)
    assert math.prod(more.patch_size) > 2 * math.prod(plan.patch_size)
    eight = planned(found, batch_size=8)
    assert eight.batch_size == 8 and step_bytes(eight.patch_size, 8) <= 8e9
    assert math.prod(eight.patch_size) < math.prod(plan.patch_size)


def test_two_axes() -> None:
    plan = planned(facts([(450, 600)] * 50, [(1, 1)] * 50, channels=("red", "green", "blue")))
    assert plan.patch_size == (480, 608) and plan.normalisation == ("zscore",) * 3


def test_settings_win() -> None:
    found = facts([(35, 50, 36)] * 20, [(1, 1, 1)] * 20)
    plan = planned(found, spacing=(2.0, 1.0, 1.5), patch_size=(33, 20, 17), normalisation="rescale")
    assert plan.spacing == (2, 1, 1.5) and plan.patch_size == (33, 20, 17)
    assert plan.normalisation == ("rescale",)
    halved = planned(found, spacing=(2.0, 2.0, 2.0))
    assert halved.patch_size == (20, 28, 20)
    with pytest.raises(UsageError, match=r"data\.spacing: expected 3 numbers"):
        planned(found, spacing=(1.0, 1.0))
    with pytest.raises(UsageError, match=r"data\.patch_size: expected 3 numbers"):
        planned(found, patch_size=(8, 8))
    with pytest.raises(
        UsageError, match=r"data\.memory_gb: a training step takes at least 1\.5 GB"
    ):
        planned(found, memory_gb=0.5)


def test_crops_where_it_removes_a_quarter() -> None:
    shapes, spacings = [(100, 100, 100)] * 5, [(1, 1, 1)] * 5
    assert not planned(facts(shapes, spacings, [(95, 90, 90)] * 5)).crop
    plan = planned(facts(shapes, spacings, [(80, 60, 70)] * 5))
    assert plan.crop and plan.patch_size == (80, 64, 80)


def test_halvings_make_feature_maps_isotropic() -> None:
    assert halvings((40, 56, 40), (1, 1, 1)) == (3, 3, 3)
    assert halvings((256, 256, 16), (0.5, 0.5, 4)) == (5, 5, 2)
    assert halvings((7, 300), (1, 1)) == (0, 5)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(1, 700), min_size=2, max_size=3),
    st.data(),
    st.integers(1, 4),
    st.floats(1.8, 40),
)
def test_patches_fit(
    median: list[int], data: st.DataObject, batch_size: int, memory: float
) -> None:
    dims = len(median)
    spacing = data.draw(st.lists(st.floats(0.3, 8), min_size=dims, max_size=dims))
    patch = plan_patch(median, spacing, batch_size, memory)
    assert step_bytes(patch, batch_size) <= memory * 1e9
    for size, whole, times in zip(patch, median, halvings(patch, spacing), strict=True):
        assert size >= 4 and size % 2 ** min(times, 2) == 0
        assert size < whole + 32 or size == 4

"""Sliding windows: against MONAI, against the whole volume at once, and their memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from domains.medical import inference
from domains.medical.inference import finished_rows, gather, gaussian, window_starts
from shared_runtime.errors import HeedError, UsageError

CPU = torch.device("cpu")


def sliding(function: Callable[[Tensor], Tensor], array: np.ndarray, **how: Any) -> Tensor:
    return gather(finished_rows(function, array, device=CPU, **how), array.shape[1:])


def image(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def convolutions(channels: int, outputs: int, spatial_dims: int) -> nn.Module:
    """Two convolutions: each voxel looks two voxels far, zeros beyond the edges."""
    layer = {2: nn.Conv2d, 3: nn.Conv3d}[spatial_dims]
    first, second = layer(channels, 4, 3, padding=1), layer(4, outputs, 3, padding=1)
    return nn.Sequential(first, nn.Tanh(), second).requires_grad_(False)


@given(st.integers(1, 60), st.integers(1, 60), st.floats(0, 0.95))
def test_windows_cover_every_voxel(window: int, more: int, overlap: float) -> None:
    size = window + more - 1
    starts = window_starts(size, window, overlap)
    assert starts[0] == 0 and starts[-1] + window == size
    steps = np.diff(starts)
    assert (steps > 0).all() and (steps <= max(1, window * (1 - overlap) + 1e-6)).all()


def test_gaussian_is_symmetric_with_a_deviation_of_an_eighth() -> None:
    weights = gaussian(64).double()
    assert torch.equal(weights, weights.flip(0))
    assert weights[31 + 8] / weights[31] == pytest.approx(np.exp((0.5**2 - 7.5**2) / 128), rel=1e-6)
    assert gaussian(1).tolist() == [1]


@pytest.mark.parametrize(
    ("grid", "window", "overlap"),
    [
        ((17, 14, 21), (8, 6, 8), 0.5),
        ((16, 16, 16), (8, 8, 8), 0.0),
        ((13, 9, 11), (6, 4, 5), 0.7),
        ((12, 7, 20), (12, 10, 8), 0.5),
        ((5, 6, 7), (8, 9, 10), 0.25),
        ((5, 30), (8, 8), 0.5),
        ((40, 33), (16, 12), 0.6),
    ],
    ids=str,
)
def test_equal_to_monai(grid: tuple[int, ...], window: tuple[int, ...], overlap: float) -> None:
    from monai.inferers.utils import sliding_window_inference

    net, array = convolutions(2, 3, len(grid)), image(2, *grid)
    weights = gaussian(window[0])
    for width in window[1:]:
        weights = weights[..., None] * gaussian(width)
    expected = sliding_window_inference(
        torch.from_numpy(array)[None], window, 3, net, overlap, "gaussian", roi_weight_map=weights
    )[0]
    found = sliding(net, array, window=window, overlap=overlap, batch_size=2)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-5


def test_equal_to_the_whole_volume_where_windows_see_the_receptive_field() -> None:
    """Windows see nothing beyond their edges, so voxels there are left out of the average."""
    net, array = convolutions(1, 3, 3), image(1, 21, 18, 25)
    inner = torch.zeros(10, 10, 10)
    inner[2:-2, 2:-2, 2:-2] = 1

    def known(windows: Tensor) -> Tensor:
        return torch.cat([net(windows) * inner, inner.expand(len(windows), 1, -1, -1, -1)], 1)

    whole = net(torch.from_numpy(array)[None])[0]
    *values, weight = sliding(known, array, window=(10, 10, 10), overlap=0.5, batch_size=4)
    middle = (slice(2, -2),) * 3
    assert (weight[middle] > 0).all()
    for value, expected in zip(values, whole, strict=True):
        assert (value / weight)[middle].sub(expected[middle]).abs().max() < 1e-5


def test_blending_hides_what_windows_do_not_see() -> None:
    net, array = convolutions(1, 3, 3), 3 * image(1, 64, 32, 32)
    whole = net(torch.from_numpy(array)[None])[0].softmax(0)
    windows = sliding(lambda x: net(x).softmax(1), array, window=(32, 32, 32), overlap=0.5)
    hard = sliding(lambda x: net(x).softmax(1), array, window=(32, 32, 32), overlap=0.0)
    assert (windows - whole).abs().max() < 2e-3
    assert (hard - whole).abs().max() > 5e-2, "this would not notice"


def test_rows_come_in_order_and_whole() -> None:
    array = image(1, 23, 6, 5)
    parts = list(finished_rows(lambda x: 2 * x, array, window=(8, 4, 4), device=CPU))
    assert sum(part.shape[1] for part in parts) == 23 and len(parts) == 5
    assert all(part.dtype == torch.float32 for part in parts)
    kept = [part.clone() for part in parts]
    assert all(torch.equal(a, b) for a, b in zip(parts, kept, strict=True))
    assert np.allclose(torch.cat(parts, 1), 2 * array, atol=1e-6)


@pytest.mark.parametrize("batch_size", [2, 5, 100])
def test_batch_size_does_not_matter(batch_size: int) -> None:
    net, array = convolutions(1, 2, 3), image(1, 14, 13, 12)
    one = sliding(net, array, window=(6, 6, 6))
    many = sliding(net, array, window=(6, 6, 6), batch_size=batch_size)
    assert (one - many).abs().max() < 1e-5


def test_never_more_windows_than_asked_for() -> None:
    seen: list[int] = []

    def net(windows: Tensor) -> Tensor:
        seen.append(len(windows))
        return windows

    sliding(net, image(1, 10, 12, 12), window=(4, 4, 4), batch_size=4)
    assert max(seen) == 4 and sum(seen) == 4 * 5 * 5


def test_maps_of_files_are_read_as_arrays_are(tmp_path: Path) -> None:
    array = image(2, 11, 12, 13).astype(np.float16)
    np.save(tmp_path / "scan.npy", array)
    mapped = np.load(tmp_path / "scan.npy", mmap_mode="r")
    net = convolutions(2, 2, 3)
    of_file = sliding(net, mapped, window=(6, 6, 6))
    assert torch.equal(of_file, sliding(net, array, window=(6, 6, 6)))
    assert isinstance(mapped, np.memmap)


@settings(max_examples=25, deadline=None)
@given(st.tuples(*[st.integers(1, 12)] * 2), st.tuples(*[st.integers(1, 12)] * 2))
def test_any_grid_and_window(grid: tuple[int, int], window: tuple[int, int]) -> None:
    array = image(1, *grid)
    found = sliding(lambda x: x, array, window=window, batch_size=3)
    assert np.allclose(found, array, atol=1e-5)


def test_large_volumes_are_kept_in_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.random.default_rng(0).random((2, 12, 8, 8), dtype=np.float32)
    exact = sliding(lambda x: x, array, window=(4, 4, 4))
    monkeypatch.setattr(inference, "LARGEST_EXACT", 2 * 12 * 8 * 8 - 1)
    half = sliding(lambda x: x, array, window=(4, 4, 4))
    assert exact.dtype == torch.float32 and half.dtype == torch.float16
    assert 0 < (exact - half.float()).abs().max() <= 2.5e-4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window": (4, 4)}, r"a window of \(4, 4\) voxels does not fit a grid of \(8, 8, 8\)"),
        ({"window": (4, 0, 4)}, "does not fit"),
        ({"overlap": 1.0}, "overlap: expected 0 to below 1, got 1.0"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
    ],
)
def test_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        sliding(lambda x: x, image(1, 8, 8, 8), **{"window": (4, 4, 4), **change})


def test_an_empty_volume_is_refused() -> None:
    with pytest.raises(UsageError, match="does not fit"):
        sliding(lambda x: x, image(1, 0, 8, 8), window=(4, 4, 4))


def test_values_that_are_not_finite_never_become_a_mask() -> None:
    array = image(1, 12, 8, 8)
    array[0, 10, 3, 3] = np.inf
    with pytest.raises(HeedError, match="not finite"):
        sliding(lambda x: x, array, window=(4, 4, 4))


def test_a_model_that_changes_the_grid_is_caught() -> None:
    with pytest.raises(ValueError, match=r"gave \(1, 1, 2, 2, 2\) for windows"):
        sliding(lambda x: x[..., ::2, ::2, ::2], image(1, 8, 8, 8), window=(4, 4, 4))


GROWTH = """
import resource
import numpy as np, torch
from domains.medical.inference import finished_rows
torch.set_num_threads(1)
for rows in (64, 2048):
    array = np.broadcast_to(np.float32(1), (1, rows, 64, 64))
    five = lambda x: x.expand(-1, 5, -1, -1, -1)
    parts = finished_rows(five, array, window=(16, 64, 64), device=torch.device("cpu"))
    print(sum(part.shape[1] for part in parts))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_memory_does_not_grow_with_the_volume() -> None:
    """The probabilities of the longer volume alone are 160 MiB."""
    command = [sys.executable, "-c", GROWTH]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    short, before, long, after = map(int, ended.stdout.split())
    assert (short, long) == (64, 2048)
    assert after - before < 16

"""Attention maps of layers of every kind, sensitivities, and the places asked about."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from domains.medical.attention_figures import attention_figure
from domains.medical.attention_layers import attention_maps, has_attention, scaled_place
from domains.medical.data.plan import Plan
from domains.medical.explanation import (
    explain_patch,
    heads_table,
    patch_around,
    query_places,
    reach_table,
    sensitivity,
)
from shared_attention.layers.multihead import MultiHeadAttention
from shared_attention.registry import catalogue

PLAN = Plan(2, ("mr",), {"background": 0, "a": 1}, (0, 1), (1.0, 2.0), (8, 12), ("zscore",), (), 2)


class Tokens(nn.Module):
    """Multi-head attention over a grid of half the size, then logits."""

    def __init__(self, dims: int = 2, mechanism: str = "softmax") -> None:
        super().__init__()
        conv = (nn.Conv2d, nn.Conv3d)[dims - 2]
        self.down = conv(1, 8, 2, stride=2)
        self.attend = MultiHeadAttention(8, 2, mechanism=mechanism)
        self.head = conv(8, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        grid = self.down(image)
        tokens = grid.flatten(2).transpose(1, 2)
        mixed = (tokens + self.attend(tokens)).transpose(1, 2).view(grid.shape)
        return nn.functional.interpolate(self.head(mixed), image.shape[2:])


class LocalAttention(nn.Module):
    """Not attention at all: a place sees its neighbours only."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(x)


class Windows(nn.Module):
    """Attention within windows of 4 x 4, on channels-last grids."""

    def __init__(self) -> None:
        super().__init__()
        self.lift = nn.Conv2d(1, 4, 1)
        self.block = catalogue()["swin_window"].build(channels=4, num_heads=2, window=4, dims=2)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.block(self.lift(image).movedim(1, -1)).movedim(-1, 1))


def picture(*shape: int) -> Tensor:
    return torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(0))


def seeded(make: Any, **options: Any) -> Any:
    torch.manual_seed(1)
    return make(**options).eval()


@pytest.mark.parametrize("shape", [(8, 12), (4, 8, 6)])
def test_multi_head_layers_give_their_weights(shape: tuple[int, ...]) -> None:
    net, image = seeded(Tokens, dims=len(shape)), picture(*shape)
    place = tuple(n - 1 for n in shape)
    (found,) = attention_maps(net, image, [place, (0,) * len(shape)])
    grid = net.down(image)
    q, k, _ = net.attend.project(grid.flatten(2).transpose(1, 2), None, 0)
    weights = (q @ k.mT / 2).softmax(-1).mean(1)[0]
    assert found.exact
    assert found.layer == "attend"
    assert torch.allclose(found.maps[0].flatten(), weights[-1], atol=1e-5)
    assert torch.allclose(found.maps[1].flatten(), weights[0], atol=1e-5)
    assert found.maps.shape[1:] == grid.shape[2:]
    assert len(found.heads["entropy"]) == 2


def test_other_layers_give_what_they_depend_on() -> None:
    net = nn.Sequential(seeded(LocalAttention), nn.Conv2d(2, 2, 1))
    (found,) = attention_maps(net, picture(8, 12), [(4, 5)])
    assert not found.exact
    seen = (found.maps[0] > 0).nonzero()
    assert seen.amin(0).tolist() == [3, 4]
    assert seen.amax(0).tolist() == [5, 6]
    assert found.maps[0].sum().item() == pytest.approx(1)


def test_windows_are_seen_as_windows() -> None:
    (found,) = attention_maps(seeded(Windows), picture(8, 12), [(5, 6)])
    assert found.layer == "block"
    inside = torch.zeros(8, 12, dtype=torch.bool)
    inside[4:8, 4:8] = True
    assert (found.maps[0][inside] > 0).all()
    assert (found.maps[0][~inside] == 0).all()


def test_large_grids_are_looked_through_without_a_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("domains.medical.attention_layers._MOST_TOKENS", 4)
    (found,) = attention_maps(seeded(Tokens), picture(8, 12), [(0, 0)])
    assert not found.exact
    assert found.maps.shape == (1, 4, 6)


def test_models_are_left_as_they_were() -> None:
    net, image = seeded(Tokens), picture(8, 12)
    before = net(image)
    attention_maps(net, image, [(0, 0)])
    assert torch.equal(net(image), before)
    assert not any(module._forward_hooks for module in net.modules())
    assert not any(module._forward_pre_hooks for module in net.modules())
    assert has_attention(net)
    assert not has_attention(nn.Sequential(nn.Conv2d(1, 2, 1)))


def test_sensitivity_of_a_convolution_is_its_kernel() -> None:
    net = nn.Conv2d(1, 2, 3, padding=1)
    found = sensitivity(net, picture(8, 12), [(4, 5)])[0]
    kernel = (net.weight[0, 0] - net.weight[1, 0]).abs().detach().numpy()
    assert np.allclose(found[3:6, 4:7], kernel / kernel.sum(), atol=1e-6)
    assert found.sum() == pytest.approx(1, abs=1e-5)


def test_places_are_inside_at_the_border_and_outside() -> None:
    predicted = np.zeros((9, 12, 5), dtype=np.int64)
    predicted[2:7, 3:10, 1:4] = 1
    places = query_places(predicted)
    assert places["centre"] == (4, 5, 2) or predicted[places["centre"]] == 1
    row, column, level = places["border"]
    assert level == places["centre"][2] == places["background"][2]
    assert predicted[row, column, level] == 1
    around = predicted[row - 1 : row + 2, column - 1 : column + 2, level]
    assert (around == 0).any()
    assert predicted[places["background"]] == 0
    assert list(query_places(np.zeros((4, 6), int))) == ["background"]
    assert list(query_places(np.ones((4, 6), int))) == ["centre", "border"]


def test_patches_lie_around_the_label_and_are_padded() -> None:
    array = np.random.default_rng(0).normal(size=(1, 20, 6)).astype(np.float32)
    truth = np.zeros((20, 6), dtype=np.uint8)
    truth[17:19, 3] = 1
    patch = patch_around(array, truth, (8, 10))
    assert patch.shape == (1, 1, 8, 10)
    assert torch.equal(patch[0, 0, :, 2:8], torch.from_numpy(array[0, 12:20]))
    assert (patch[0, 0, :, :2] == 0).all()
    assert (patch[0, 0, :, 8:] == 0).all()


@pytest.mark.parametrize(("model", "attends"), [(Tokens, True), (None, False)])
def test_pictures_and_tables_of_a_patch(model: Any, attends: bool) -> None:
    net = seeded(model) if model else nn.Conv2d(1, 2, 3, padding=1).eval()
    found = explain_patch(net, "case_1", picture(8, 12))
    figure = attention_figure(found, PLAN, has_attention(net))
    assert ("no attention layer" in figure.caption) is not attends
    lines, columns = len(found.places), 1 + attends + 1
    assert len(figure.figure.axes) == lines * columns
    figure.figure.canvas.draw()
    reach = reach_table([found], PLAN)
    assert len(reach) == lines * (columns - 1)
    assert reach["share inside"].between(0, 1 + 1e-6).all()
    assert len(heads_table([found])) == (2 if attends else 0)


def test_reach_is_in_millimetres() -> None:
    maps = np.zeros((1, 8, 12))
    maps[0, 4, 8] = 1
    patch = SimpleNamespace(
        case="c",
        predicted=np.ones((8, 12), int),
        places={"centre": (1, 6)},
        maps=(),
        sensitivity=maps,
    )
    (row,) = reach_table([patch], PLAN).to_dict("records")  # type: ignore[list-item]
    assert row["mean distance mm"] == pytest.approx(np.hypot(3 * 1.0, 2 * 2.0))


def test_places_of_coarser_grids() -> None:
    assert scaled_place((7, 11), (8, 12), (4, 3)) == (3, 2)
    assert scaled_place((0, 5), (8, 12), (8, 12)) == (0, 5)

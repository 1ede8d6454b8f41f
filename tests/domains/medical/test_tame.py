"""Explanation maps: the layers they read, the loss, the scores, a planted cause, the settings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from domains.medical.tame.explained import ClassCentres, Explained, Presence
from domains.medical.tame.features import Layer, as_grid, find_layers, tapped
from domains.medical.tame.maps import ExplanationMaps, masked
from domains.medical.tame.scoring import (
    METHODS,
    Explanations,
    brightest,
    explain_images,
    map_scores,
    scaled,
    top,
)
from domains.medical.tame.settings import tame_settings
from domains.medical.tame.training import Pieces, TameConfig, loss_terms, train_maps
from domains.medical.verbs import tame as verb
from shared_runtime.errors import DataError, HeedError, UsageError
from shared_runtime.run_folder import RunFolder

CPU = torch.device("cpu")
SIDE = 16


class Net(nn.Module):
    """A segmentation model: class 1 where a place is bright, found at half resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(1, 4, 2, stride=2)
        self.deep = nn.Conv2d(4, 4, 2, stride=2)
        self.head = nn.Conv2d(4, 2, 1)
        with torch.no_grad():
            for layer in (self.down, self.deep):
                layer.weight.fill_(1 / layer.weight[0].numel())
                nn.init.zeros_(layer.get_parameter("bias"))
            self.head.weight.copy_(torch.tensor([-1.0, 1.0])[:, None, None, None] * 2)
            self.head.get_parameter("bias").copy_(torch.tensor([6.0, -6.0]))

    def forward(self, image: Tensor) -> Tensor:
        half = self.down(image)
        size = image.shape[2:]
        deep = nn.functional.interpolate(self.deep(half), size)
        return self.head(nn.functional.interpolate(half, size) + 0.5 * deep)


class Squares:
    """Dark noise with one bright square whose place differs from image to image."""

    def __init__(self, count: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        images = random.uniform(0, 0.3, (count, 1, SIDE, SIDE))
        self.inside = np.zeros((count, SIDE, SIDE), dtype=bool)
        for number in range(count):
            row, column = 2 * random.integers(0, SIDE // 2 - 2, 2)
            self.inside[number, row : row + 4, column : column + 4] = True
        images[:, 0][self.inside] += 2
        self.images = torch.from_numpy(images.astype(np.float32))

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: np.ndarray) -> dict[str, Tensor]:
        return {"image": self.images[indices]}


def presence() -> Presence:
    return Presence(Net(), ["lesion"])


def test_layers_are_the_last_of_each_coarser_resolution() -> None:
    net, image = Net(), Squares(1, 0).images
    assert find_layers(net, image) == [Layer("down", 4, (8, 8)), Layer("deep", 4, (4, 4))]
    assert find_layers(net, image, ["deep"]) == [Layer("deep", 4, (4, 4))]
    with pytest.raises(UsageError, match=r"'head' gives no grid of features; some do: down, deep"):
        find_layers(net, image, ["head"])


def test_features_of_every_form_become_grids() -> None:
    size = (8, 12)
    grid = torch.arange(5.0 * 4 * 6).view(1, 5, 4, 6)
    assert as_grid(grid, size) is grid
    for form in (grid.movedim(1, -1), grid.flatten(2).transpose(1, 2)):
        found = as_grid(form, size)
        assert found is not None
        assert torch.equal(found, grid)
    with_class = torch.cat([torch.full((1, 1, 5), -1.0), grid.flatten(2).transpose(1, 2)], dim=1)
    found = as_grid(with_class, size)
    assert found is not None
    assert torch.equal(found, grid)
    for other in (None, (grid,), torch.zeros(1, 5, 1, 1), torch.zeros(1, 11, 5), torch.zeros(3)):
        assert as_grid(other, size) is None


def test_taps_see_the_latest_pass_and_are_taken_off() -> None:
    net, layers = Net(), [Layer("down", 4, (8, 8))]
    with tapped(net, layers) as features:
        net(torch.zeros(1, 1, SIDE, SIDE))
        net(torch.ones(2, 1, SIDE, SIDE))
    assert torch.equal(features["down"], torch.ones(2, 4, 8, 8))
    net(torch.zeros(3, 1, SIDE, SIDE))
    assert len(features["down"]) == 2


def test_presence_is_the_mean_log_odds_where_they_are_highest() -> None:
    class Given(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image

    logits = torch.randn(2, 3, 8, 5, generator=torch.Generator().manual_seed(0))
    share = logits.double().softmax(1)
    odds = (share / (1 - share)).log().flatten(2).sort(dim=2).values[:, 1:, -10:].mean(2)
    explained = Presence(Given(), ["a", "b"])
    assert torch.allclose(explained(logits).exp().double(), odds.sigmoid(), atol=1e-6)
    assert torch.isfinite(explained(1e4 * logits)).all()
    assert explained.chosen(torch.tensor([[0.6, 0.4]])).tolist() == [[True, False]]


def test_class_centres_choose_the_nearest() -> None:
    explained = ClassCentres(nn.Flatten(), ["a", "b"], torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    scores = explained(torch.tensor([[[0.1, 0.9]], [[0.8, 0.1]]]))
    assert torch.allclose(scores.exp().sum(1), torch.ones(2))
    assert explained.chosen(scores.exp()).tolist() == [[True, False], [False, True]]


def test_the_model_stays_as_it_is() -> None:
    net = nn.Sequential(nn.BatchNorm2d(1), Net())
    explained = Presence(net, ["lesion"]).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    layers = find_layers(net, Squares(1, 0).images, ["1.down"])
    train_maps(explained, layers, Squares(8, 0), TameConfig(steps=3), seed=0, device=CPU)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_masking_fades_to_the_darkest_value() -> None:
    image = torch.tensor([[[[-3.0, 1.0]], [[2.0, 5.0]]]])
    assert masked(image, torch.zeros(1, 1, 2)).flatten().tolist() == [-3, -3, 2, 2]
    assert torch.equal(masked(image, torch.ones(1, 1, 2)), image)


def test_loss_terms_by_hand() -> None:
    explained, image = presence(), Squares(2, 0).images
    config = TameConfig(cross_entropy=1.5, area=2, area_power=0.3, variation=0.01)
    chosen = torch.zeros(2, dtype=torch.int64)
    flat = loss_terms(explained, image, torch.full((2, 4, 4), 0.5), chosen, config)
    assert flat["variation"].item() == 0
    assert flat["area"].item() == pytest.approx(2 * 0.5005**0.3)
    expected = -1.5 * explained(masked(image, torch.full((2, SIDE, SIDE), 0.5))).mean()
    assert flat["cross_entropy"].item() == pytest.approx(expected.item(), rel=1e-5)
    stripes = torch.zeros(1, 4, 4)
    stripes[:, ::2] = 1
    varied = loss_terms(explained, image[:1], stripes, chosen[:1], config)
    assert varied["variation"].item() == pytest.approx(0.01 * 56 * 56 / 2)


def test_maps_find_a_planted_cause() -> None:
    explained, data = presence(), Squares(64, 1)
    layers = find_layers(explained.model, data.images[:1])
    config = TameConfig(steps=60, batch_size=16, learning_rate=0.03)
    maps, history = train_maps(explained, layers, data, config, seed=0, device=CPU)
    assert history[-1]["loss"] < 0.7 * history[0]["loss"]
    unseen = Squares(24, 2)
    found = explain_images(explained, maps, unseen, most=24, seed=0, device=CPU)
    assert len(found) == 24
    inside = torch.from_numpy(unseen.inside)
    values = found.maps["T-TAME"]
    assert values[inside].mean() > 4 * values[~inside].mean()
    scores = {
        method: map_scores(explained, found, method, seed=0, device=CPU)[0] for method in METHODS
    }
    for other in METHODS[1:]:
        assert scores["T-TAME"]["average_drop_15"].value <= scores[other]["average_drop_15"].value
    assert scores["T-TAME"]["insertion"].value > scores["random"]["insertion"].value + 0.1
    assert scores["T-TAME"]["deletion"].value < scores["random"]["deletion"].value - 0.1


def test_the_same_seed_trains_the_same_maps() -> None:
    explained, data = presence(), Squares(16, 1)
    layers = find_layers(explained.model, data.images[:1])
    config = TameConfig(steps=3, batch_size=4)
    one, two = (
        train_maps(explained, layers, data, config, seed=4, device=CPU)[0] for _ in range(2)
    )
    for first, second in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(first, second)


def test_every_part_of_the_maps_is_trained() -> None:
    layers = [Layer("down", 4, (8, 8)), Layer("deep", 4, (4, 4))]
    maps = ExplanationMaps(layers, 2)
    random = torch.Generator().manual_seed(0)
    grids = {e.name: torch.randn(3, 4, *e.grid, generator=random) for e in layers}
    out = maps(grids)
    assert out.shape == (3, 2, 8, 8)
    assert ((out > 0) & (out < 1)).all()
    out[:, :, ::3].sum().backward()
    for name, parameter in maps.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    larger = {name: 1000 * grid for name, grid in grids.items()}
    assert torch.allclose(maps(larger), out, atol=1e-4), "scales of layers do not matter"


def test_scores_by_hand() -> None:
    """Confidence is the mean of what is shown: known drops and areas under curves."""

    class Mean(Explained):
        def forward(self, image: Tensor) -> Tensor:
            return image.flatten(1).mean(1, keepdim=True).log()

    image = torch.tensor([[[[0.0, 0.2, 0.4, 0.6]]], [[[0.0, 0.4, 0.4, 0.4]]]])
    rising = torch.tensor([[[0.0, 0.2, 0.4, 1.0]], [[0.0, 1.0, 1.0, 1.0]]])
    found = Explanations(
        image, torch.zeros(2, dtype=torch.int64), torch.tensor([0.3, 0.3]), {"T-TAME": rising}
    )
    scores, curves = map_scores(Mean(nn.Identity(), ["a"]), found, "T-TAME", seed=0, device=CPU)
    kept = (0.2 * 0.2 + 0.4 * 0.4 + 0.6) / 4
    assert scores["average_drop_100"].value == pytest.approx(100 * (0.3 - kept) / 0.3 / 2, rel=1e-4)
    two = (0.4 * 0.4 + 0.6) / 4
    drops = ((0.3 - two) / 0.3, (0.3 - 0.2) / 0.3)
    assert scores["average_drop_50"].value == pytest.approx(50 * sum(drops), rel=1e-4)
    assert scores["increase_100"].value == 0
    assert curves["insertion"][-1] == pytest.approx(0.3)
    assert curves["deletion"][0] == pytest.approx(0.3)
    assert curves["insertion"][2] == pytest.approx((1.0 / 4 + 0.8 / 4) / 2)


def test_a_map_is_scored_in_few_passes() -> None:
    """Three shares, four inner places of two curves, and nothing."""
    passes = []
    explained, data = presence(), Squares(4, 0)
    explained.model.register_forward_hook(lambda *_: passes.append(1))
    shown = torch.linspace(0, 1, SIDE * SIDE).view(1, SIDE, SIDE).repeat(4, 1, 1)
    confidence = explained(data.images).exp()[:, 0]
    found = Explanations(data.images, torch.zeros(4, dtype=torch.int64), confidence, {"x": shown})
    passes.clear()
    map_scores(explained, found, "x", seed=0, device=CPU)
    assert len(passes) == 12


def test_pieces_of_volumes_hold_a_labelled_place() -> None:
    class Volumes:
        images = torch.arange(2.0 * 10 * 7 * 12).view(2, 1, 10, 7, 12)
        labels = torch.zeros(2, 10, 7, 12)

        def __len__(self) -> int:
            return 2

        def batch(self, indices: np.ndarray) -> dict[str, Tensor]:
            return {"image": self.images[indices], "label": self.labels[indices]}

    rows, volumes = np.arange(2), Volumes()
    volumes.labels[1, 2, 3, 11] = 1
    found = Pieces(volumes, 8).batch(rows)["image"]
    assert torch.equal(found[0], Volumes.images[0, :, 1:9, :, 2:10])
    assert torch.equal(found[1], Volumes.images[1, :, :8, :, 4:])
    assert torch.equal(Pieces(volumes, 0).batch(rows)["image"], Volumes.images)
    assert len(Pieces(volumes, 8)) == 2
    volumes.labels[1, 8, 0, 0] = 1
    several = Pieces(volumes, 8, each=2)
    assert len(several) == 4 and len(Pieces(volumes, 0, each=2)) == 2
    found = several.batch(np.array([2, 3]))["image"]
    assert torch.equal(found[0], Volumes.images[1, :, :8, :, 4:])
    assert torch.equal(found[1], Volumes.images[1, :, 2:, :, :8])


def test_further_images_are_looked_at_where_few_show_a_class() -> None:
    explained, data = presence(), Squares(12, 0)
    layers = find_layers(explained.model, data.images[:1])
    data.images[[0, 3, 7, 11]] *= 0
    found = explain_images(explained, ExplanationMaps(layers, 1), data, most=4, seed=0, device=CPU)
    assert len(found) == 4


def test_brightest_places_are_counted_exactly() -> None:
    maps = torch.tensor([[[0.5, 0.5, 0.5, 0.5]], [[0.1, 0.9, 0.3, 0.2]]])
    assert top(maps, 2).flatten(1).tolist() == [[1, 1, 0, 0], [0, 1, 1, 0]]
    assert brightest(maps, 50)[1].flatten().tolist() == pytest.approx([0, 0.9, 0.3, 0])
    assert brightest(maps, 100) is maps
    assert scaled(maps)[1].flatten().tolist() == pytest.approx([0, 1, 0.25, 0.125])
    assert not scaled(maps)[0].any()


def test_a_model_that_sees_nothing_cannot_be_explained() -> None:
    explained, data = presence(), Squares(8, 0)
    layers = find_layers(explained.model, data.images[:1])
    data.images *= 0
    with pytest.raises(DataError, match="sees no class in any training image"):
        train_maps(explained, layers, data, TameConfig(steps=2), seed=0, device=CPU)
    with pytest.raises(DataError, match="sees no class in any scored image"):
        maps = ExplanationMaps(layers, 1)
        explain_images(explained, maps, data, most=4, seed=0, device=CPU)


def test_settings_of_the_command_line() -> None:
    chosen, others = tame_settings(["tame.steps=5", "data.overlap=0.2", "tame.layers=a.b, c"])
    assert (chosen, others) == ({"steps": 5, "layers": ("a.b", "c")}, ["data.overlap=0.2"])
    volumes, images = (TameConfig.of(dims, chosen) for dims in (3, 2))
    assert volumes.steps == images.steps == 5
    assert volumes.images * volumes.side**3 < images.images * 64**2, "no more work than images"
    for pair, words in (
        ("tame.step=5", r"unknown setting; did you mean tame.steps\?"),
        ("tame.steps=x", "expected a whole number, got 'x'"),
        ("tame.steps=0", "tame.steps: expected at least 1"),
        ("tame.side=4", "tame.side: expected 0 or at least 8, got 4"),
        ("tame.area=-1", "tame.area: expected at least 0"),
        ("tame.learning_rate=nan", "tame.learning_rate: expected more than 0"),
        ("tame.zzzzzz", "unknown setting; known:"),
    ):
        with pytest.raises(UsageError, match=words):
            tame_settings([pair])


def test_maps_are_saved_for_one_model(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    record = {"files": {"model.safetensors": {"sha256": "abc"}}}
    (run / "manifest.json").write_text(json.dumps(record))
    maps = ExplanationMaps([Layer("down", 4, (8, 8))], 1)
    verb.save_maps(RunFolder(tmp_path / "tame"), maps, ["lesion"], run, "data")
    again, names = verb.load_maps(tmp_path / "tame", run)
    assert names == ("lesion",)
    grid = {"down": torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))}
    assert torch.equal(maps(grid), again(grid))
    record["files"]["model.safetensors"]["sha256"] = "other"
    (run / "manifest.json").write_text(json.dumps(record))
    with pytest.raises(HeedError, match="explain another model"):
        verb.load_maps(tmp_path / "tame", run)
    (tmp_path / "tame" / "tame.safetensors").write_bytes(b"short")
    with pytest.raises(HeedError, match="holds no whole maps"):
        verb.load_maps(tmp_path / "tame", run)


def test_an_occupied_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UsageError, match="not an empty folder"):
        verb.run_tame(None, tmp_path, out=tmp_path)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]

"""The model: unit embeddings shared by learners, growth, the loss, the swappable attention."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from domains.medical.models.dynamic_subspace_learners import DynamicSubspaceLearners
from domains.medical.retrieval.margin import distance_weights, margin_loss
from shared_attention.errors import UnsupportedError

SIZE = (24, 24)


def model(**options: Any) -> DynamicSubspaceLearners:
    torch.manual_seed(0)
    sizes = {"channels": 2, "targets": 3, "spatial_dims": 2, "size": SIZE}
    small = {"embedding": 20, "width": 8, "max_learners": 4}
    return DynamicSubspaceLearners(**{**sizes, **small, **options})


def images(count: int = 5, *size: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 2, *(size or SIZE), generator=generator)


def importance(*high: int) -> Tensor:
    scores = torch.linspace(0, 0.1, 20, dtype=torch.float64)
    scores[list(high)] = -1.0
    return scores


def test_embeddings_have_length_one_and_learners_count_alike() -> None:
    net = model().eval()
    net.grow(importance(1, 3, 5, 7, 9, 11))
    embedding = net(images())
    assert torch.allclose(embedding.norm(dim=1), torch.ones(5), atol=1e-5)
    for learner in (0, 1):
        part = embedding[:, net.owner == learner]
        assert torch.allclose(part.norm(dim=1), torch.full((5,), math.sqrt(0.5)), atol=1e-5)


def test_growing_keeps_what_matters_and_begins_the_rest_anew() -> None:
    net = model()
    before = net.embed.weight.detach().clone()
    kept = [1, 3, 5, 7, 9, 11]
    anew = net.grow(importance(*kept))
    assert anew is not None
    assert int(net.learners) == 2
    assert (net.owner == 0).nonzero()[:, 0].tolist() == kept
    assert sorted(anew.tolist()) == [n for n in range(20) if n not in kept]
    assert torch.equal(net.embed.weight[kept], before[kept])
    assert (net.embed.weight[anew] != before[anew]).all()


def test_a_learner_that_would_be_too_small_is_not_split() -> None:
    net = model()
    assert net.grow(importance(1, 2, 3, 4)) is None
    assert int(net.learners) == 1
    net.grow(importance(*range(12)))
    assert int((net.owner == 1).sum()) == 8
    assert net.grow(importance(*range(12, 20))) is None
    assert model(max_learners=1).grow(importance(*range(6))) is None


def test_each_learner_learns_from_its_own_group_only() -> None:
    net = model()
    net.grow(importance(1, 3, 5, 7, 9, 11))
    output = net.outputs(images(8))
    with torch.no_grad():
        net.centroids[0] = output.features[:4].mean(0)
        net.centroids[1] = output.features[4:].mean(0)
    group = net.groups(output.features)
    target = torch.tensor([0, 1, 0, 1, 2, 2, 2, 2])
    if group.unique().numel() == 1 or (group[:4] == 1).any():
        net.centroids[1] = -output.features.detach().mean(0)
        group = net.groups(output.features)
    assert group[:4].tolist() == [0, 0, 0, 0]
    output.embedding.retain_grad()
    net.loss_terms(output, target)["margin"].backward()
    assert output.embedding.grad is not None
    moved = output.embedding.grad.abs().sum(0) > 0
    assert moved[net.owner == 0].any()
    if (group == 1).any():
        assert not moved[net.owner == 1].any(), "its group has one class, so nothing to tell apart"


def test_merged_learners_learn_from_all_images_together() -> None:
    net = model()
    net.grow(importance(1, 3, 5, 7, 9, 11))
    net.merged.fill_(True)
    output = net.outputs(images(6))
    output.embedding.retain_grad()
    net.loss_terms(output, torch.tensor([0, 1, 0, 1, 2, 2]))["margin"].backward()
    assert output.embedding.grad is not None
    assert (output.embedding.grad.abs().sum(0) > 0).all()


def test_margin_loss_is_that_of_its_pairs() -> None:
    """Two classes of which every anchor has one negative, so the draw decides nothing."""
    angles = torch.tensor([0.0, 0.5, 1.1])
    embedding = torch.stack([angles.cos(), angles.sin()], dim=1)
    target = torch.tensor([0, 0, 1])
    boundary = torch.tensor([0.7, 0.6, 0.5])
    loss = margin_loss(embedding, target, boundary, margin=0.3)

    def chord(a: int, b: int) -> float:
        return 2 * math.sin(abs(float(angles[a] - angles[b])) / 2)

    terms = []
    for anchor, positive in ((0, 1), (1, 0)):
        terms.append(max(0.0, chord(anchor, positive) - float(boundary[anchor]) + 0.3))
        terms.append(max(0.0, float(boundary[anchor]) - chord(anchor, 2) + 0.3))
    expected = sum(terms) / sum(term > 0 for term in terms)
    assert loss.item() == pytest.approx(expected, abs=1e-5)


def test_margin_loss_without_pairs_is_zero_and_equal_images_have_a_gradient() -> None:
    same = torch.ones(4, 3, requires_grad=True)
    unit = torch.nn.functional.normalize(same, dim=1)
    assert margin_loss(unit, torch.tensor([0, 1, 2, 3]), torch.ones(4)).item() == 0
    assert margin_loss(unit, torch.zeros(4, dtype=torch.int64), torch.ones(4)).item() == 0
    margin_loss(unit, torch.tensor([0, 0, 1, 1]), torch.ones(4)).backward()
    assert same.grad is not None
    assert torch.isfinite(same.grad).all()


def test_distance_weights_are_the_inverse_of_how_common_a_distance_is() -> None:
    dims = 8
    points = np.random.default_rng(0).normal(size=(1500, dims))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    gaps = np.linalg.norm(points[:750] - points[750:], axis=1)
    distance = torch.from_numpy(gaps)[None]
    weights = distance_weights(distance, torch.ones_like(distance, dtype=torch.bool), dims)[0]
    sums = [
        float(weights[(distance[0] >= low) & (distance[0] < low + 0.1)].sum())
        for low in np.arange(0.9, 1.35, 0.1)
    ]
    assert max(sums) / min(sums) < 1.6, "weighted, every distance is as common"
    assert (weights[distance[0] >= 1.4] == 0).all()


def test_negatives_that_are_all_far_are_drawn_alike() -> None:
    distance = torch.tensor([[0.0, 1.5, 1.9], [1.5, 0.0, 1.2], [1.9, 1.2, 0.0]])
    allowed = ~torch.eye(3, dtype=torch.bool)
    weights = distance_weights(distance, allowed, 4)
    assert weights[0].tolist() == [0.0, 1.0, 1.0]
    assert weights[1, 0] == 0
    assert weights[1, 2] > 0


def test_attention_changes_the_embedding_and_is_trained() -> None:
    net = model(dropout=0.0)
    output = net.outputs(images(6))
    net.loss_terms(output, torch.tensor([0, 1, 0, 1, 2, 2]))["margin"].backward()
    for name, parameter in net.gate.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    with torch.no_grad():
        for parameter in net.gate.last.parameters():
            parameter += 1.0
    assert not torch.allclose(net(images(6)), output.embedding, atol=1e-3)
    assert net.attention_map(images(2)).shape == (2, 1, *SIZE)


def test_contributions_are_the_parts_that_sum_to_the_embedding() -> None:
    """Taking a place away shortens the embedding along itself by that place's share."""
    net = model(dropout=0.0, embedding=12).eval()
    torch.nn.init.zeros_(net.embed.bias)
    output = net.outputs(images(3))
    places = output.grid.flatten(2)
    found = net.contribution(output, output.grid.shape[2:]).flatten(1)
    whole = (net.embed(places.mean(2)) * output.embedding).sum(1)
    for place in range(places.shape[2]):
        without = places.clone()
        without[:, :, place] = 0
        left = (net.embed(without.mean(2)) * output.embedding).sum(1)
        share = ((whole - left) * places.shape[2]).relu()
        assert torch.allclose(found[:, place], share, atol=1e-4), place
    assert (found > 0).any() and net.contribution(output, SIZE).shape == (3, 1, *SIZE)


@pytest.mark.parametrize("attention", ["softmax", "linear", "position", "channel"])
def test_any_mechanism_serves_inside_the_attention_map(attention: str) -> None:
    net = model(attention=attention, dropout=0.0)
    net(images(3)).sum().backward()
    missing = [n for n, p in net.gate.named_parameters() if p.grad is None]
    assert missing == []
    attended = [p.grad for n, p in net.gate.named_parameters() if "attend" in n]
    assert any(grad is not None and grad.abs().max() > 0 for grad in attended)


def test_mechanisms_that_see_earlier_places_only_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="always causal"):
        model(attention="scan")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": (8, 8, 8)}, "does not fit spatial_dims"),
        ({"embedding": 0}, "embedding must be at least 1"),
        ({"weights": "x.pt"}, "belong to backbone=resnet50"),
        ({"spatial_dims": 3, "size": (8, 8, 8), "backbone": "resnet50"}, "for 2-D images"),
    ],
)
def test_options_that_do_not_fit_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        model(**options)
    with pytest.raises(ValueError, match="expected"):
        model()(torch.zeros(1, 3, *SIZE))


def test_volumes_any_size_and_slots_of_a_batch() -> None:
    net = model(spatial_dims=3, size=(12, 12, 12)).eval()
    volume = images(3, 13, 9, 17)
    whole = net(volume)
    assert torch.allclose(whole[1:2], net(volume[1:2]), atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert net(volume).isfinite().all()


def test_exports_with_a_free_batch_size() -> None:
    net = model().eval()
    net.grow(importance(1, 3, 5, 7, 9, 11))
    free = {"image": {0: torch.export.Dim.DYNAMIC}}
    program = torch.export.export(net, (), {"image": images(2)}, dynamic_shapes=free)
    assert torch.allclose(program.module()(image=images(5)), net(images(5)), atol=1e-5)


def test_resnet_keeps_its_statistics_and_takes_any_channels() -> None:
    net = model(backbone="resnet50", size=(32, 32)).train()
    mean = net.backbone.get_buffer("1.running_mean").clone()
    assert net(images(2, 32, 32)).shape == (2, 20)
    assert torch.equal(net.backbone.get_buffer("1.running_mean"), mean)


def test_resnet_takes_a_weights_file(tmp_path: Path) -> None:
    """Grey images get the mean of the colours' filters."""
    from torchvision.models import resnet50

    torch.manual_seed(5)
    net = resnet50(weights=None)
    torch.save(net.state_dict(), tmp_path / "resnet50.pt")
    options: dict[str, Any] = {
        "backbone": "resnet50",
        "size": (32, 32),
        "weights": str(tmp_path / "resnet50.pt"),
    }
    colour, two = model(channels=3, **options), model(**options)
    assert torch.equal(colour.backbone.get_parameter("0.weight"), net.conv1.weight)
    deep = "conv1.weight"
    last = colour.backbone.get_parameter(f"6.0.{deep}")
    assert torch.equal(last, net.layer3.get_parameter(f"0.{deep}"))
    mean = net.conv1.weight.mean(1) * 3 / 2
    assert torch.allclose(two.backbone.get_parameter("0.weight")[:, 1], mean)

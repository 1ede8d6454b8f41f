"""Averages over models and flips, and the maps of uncertainty that come with them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import entropy as scipy_entropy
from torch import Tensor, nn

from domains.medical.averaging import Average
from domains.medical.uncertainty import disagreement, entropy


def net(seed: int, spatial_dims: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    layer = {2: nn.Conv2d, 3: nn.Conv3d}[spatial_dims]
    return nn.Sequential(layer(2, 3, 3, padding=1), nn.Dropout(0.5)).requires_grad_(False)


class Evidential(nn.Module):
    """Unsure where the image is dark, and at the right."""

    map_names = ("uncertainty", "right")

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([image[:, :1], image[:, 1:]], 1)

    def uncertainty(self, image: Tensor) -> Tensor:
        return torch.sigmoid(-image[:, :1] * torch.arange(image.shape[-1]))

    def with_maps(self, image: Tensor) -> tuple[Tensor, Tensor]:
        right = torch.linspace(0, 1, image.shape[-1]).expand_as(image[:, :1])
        return self(image), torch.cat([self.uncertainty(image), right], 1)


def image(*grid: int) -> Tensor:
    return torch.randn(2, 2, *grid, generator=torch.Generator().manual_seed(3))


def flipped(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Probabilities of every flip, written out."""
    dims = range(2, x.ndim)
    subsets = [s for n in range(len(dims) + 1) for s in itertools.combinations(dims, n)]
    return [model(torch.flip(x, s)).softmax(1).flip(s) for s in subsets]


@pytest.mark.parametrize("grid", [(5, 6), (4, 5, 6)])
def test_flips_are_the_explicit_average(grid: tuple[int, ...]) -> None:
    model, x = net(0, len(grid)).eval(), image(*grid)
    members = flipped(model, x)
    assert len(members) == 2 ** len(grid)
    found = Average([model], mirror=True)(x)
    assert torch.allclose(found, torch.stack(members).mean(0), atol=1e-6)
    assert not torch.allclose(found, members[0], atol=1e-3)


def test_models_and_flips_weigh_the_same() -> None:
    models, x = [net(0).eval(), net(1).eval()], image(4, 5, 6)
    expected = torch.stack([m for model in models for m in flipped(model, x)]).mean(0)
    assert torch.allclose(Average(models, mirror=True)(x), expected, atol=1e-6)
    assert torch.allclose(Average(models)(x), sum(m(x).softmax(1) for m in models) / 2, atol=1e-6)


def test_dropout_is_off() -> None:
    model = net(0).train()
    average = Average([model])
    assert torch.equal(average(image(4, 4, 4)), average(image(4, 4, 4)))


def test_entropy_is_a_share_of_its_maximum() -> None:
    p = torch.rand(4, 50).softmax(0)
    expected = scipy_entropy(p.double().numpy(), axis=0) / np.log(4)
    assert np.allclose(entropy(p)[0], expected, atol=1e-6)
    assert entropy(torch.tensor([[1.0], [0.0]])).item() == 0
    assert entropy(torch.full((5, 1), 0.2)).item() == pytest.approx(1)


def test_disagreement_is_the_mutual_information() -> None:
    models, x = [net(0).eval(), net(1).eval()], image(4, 5, 6)
    average = Average(models, mirror=True, uncertainty=True)
    assert average.maps == ("uncertainty", "disagreement")
    *mean, whole, apart = average.finish(average(x)[0])
    members = [m[0].double() for model in models for m in flipped(model, x)]
    expected = torch.stack(members).mean(0)
    information = scipy_entropy(expected, axis=0) - np.mean(
        [scipy_entropy(m, axis=0) for m in members], axis=0
    )
    assert torch.allclose(torch.stack(mean).double(), expected, atol=1e-6)
    assert np.allclose(whole, scipy_entropy(expected, axis=0) / np.log(3), atol=1e-5)
    assert np.allclose(apart, information / np.log(3), atol=1e-5)
    assert (apart > 0.01).any()


def test_members_that_agree_do_not_disagree() -> None:
    model = net(0)
    average = Average([model, model], uncertainty=True)
    *_, whole, apart = average.finish(average(image(4, 5, 6))[0])
    assert (whole > 0.1).all() and (apart < 1e-6).all()
    assert disagreement(torch.tensor([0.2]), torch.tensor([0.2000001])).item() == 0


def test_one_model_gives_its_entropy_alone() -> None:
    model, x = net(0).eval(), image(4, 5, 6)
    average = Average([model], uncertainty=True)
    assert average.maps == ("uncertainty",)
    values = average.finish(average(x)[0])
    assert torch.allclose(values[:3], model(x).softmax(1)[0], atol=1e-6)
    assert torch.allclose(values[3:], entropy(values[:3]), atol=1e-6)


def test_a_models_own_uncertainty_is_flipped_back_and_averaged() -> None:
    model, x = Evidential(), image(4, 5)
    average = Average([model, model], mirror=True, uncertainty=True)
    assert average.maps == ("uncertainty", "right")
    flips = [(), (2,), (3,), (2, 3)]
    expected = torch.stack([model.uncertainty(x.flip(f)).flip(f) for f in flips]).mean(0)
    values = average.finish(average(x)[1])
    assert torch.allclose(values[2:3], expected[1], atol=1e-6)
    assert torch.allclose(values[3:], torch.full((1, 4, 5), 0.5), atol=1e-6)
    assert not torch.allclose(expected, model.uncertainty(x), atol=1e-2)


def test_one_model_without_evidence_makes_it_entropy_for_all() -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(2, 2, 1)
    average = Average([Evidential(), plain], uncertainty=True)
    assert average.maps == ("uncertainty", "disagreement")
    values = average.finish(average(image(4, 5))[0])
    assert torch.allclose(values[2:3], entropy(values[:2]), atol=1e-6)


def test_without_uncertainty_there_are_only_classes() -> None:
    average = Average([Evidential(), Evidential()], mirror=True)
    assert average.maps == () and average(image(4, 5)).shape == (2, 2, 4, 5)
    assert average.finish(average(image(4, 5))[0]).shape == (2, 4, 5)


def test_mixed_precision_stays_close() -> None:
    x = image(8, 8, 8)
    exact, mixed = Average([net(0)])(x), Average([net(0)], precision="bf16-mixed")(x)
    assert mixed.dtype == torch.float32
    assert 0 < (exact - mixed).abs().max() < 2e-2

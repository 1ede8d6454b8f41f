"""Density adaptive attention beyond the conformance kit."""

from __future__ import annotations

import pytest
import torch

from shared_attention import UnsupportedError, masks
from shared_attention.mechanisms.density_adaptive import DensityAdaptiveAttention
from shared_attention.references.density_adaptive import reference_density_adaptive
from shared_attention.testing import check_mechanism


def build(**options) -> DensityAdaptiveAttention:
    torch.manual_seed(0)
    module = DensityAdaptiveAttention(8, num_heads=2, **options).double()
    torch.nn.init.normal_(module.offsets)
    return module


def draw(*shape: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=random, dtype=torch.float64)


@pytest.mark.parametrize(
    "options",
    [
        {"combine": "mixture"},
        {"axis": "channels"},
        {"axis": "channels", "combine": "mixture"},
        {"form": "published"},
    ],
    ids=str,
)
def test_other_options_follow_the_reference_too(options):
    module, x = build(**options), draw(2, 11, 8)
    parameters = dict(module.named_parameters())
    out = reference_density_adaptive(x, parameters=parameters, num_heads=2, **options)
    torch.testing.assert_close(module(x), out)


@pytest.mark.parametrize("options", [{"combine": "mixture"}, {"axis": "channels"}], ids=str)
def test_other_options_treat_padding_as_claimed(options):
    checks = ("padding", "hidden positions", "empty samples", "extreme inputs")
    assert check_mechanism("density_adaptive", options=options, checks=checks).ok


def test_weights_sum_to_one_along_time_and_favour_the_usual():
    module = DensityAdaptiveAttention(1, num_heads=1).double()
    x = torch.tensor([1.0, 1.1, 0.9, 1.0, 8.0]).double()[None, :, None]
    weights = (module(x) / x).squeeze()
    torch.testing.assert_close(weights.sum(), torch.ones(()).double())
    assert weights[4] < weights[:4].min()


def test_values_far_from_every_gaussian_keep_their_weights():
    module = build()
    module.offsets.data.fill_(1e3)
    x = draw(1, 9, 8)
    assert module(x).isfinite().all()
    assert (module(x).abs().amax(1) > 1e-6).all()


def test_one_position_has_all_the_weight():
    x = draw(2, 1, 8)
    torch.testing.assert_close(build()(x), x)


def test_wrong_requests_are_refused():
    with pytest.raises(ValueError, match="num_heads got 3, expected a divisor of 8"):
        DensityAdaptiveAttention(8, num_heads=3)
    with pytest.raises(ValueError, match="num_gaussians got 0"):
        DensityAdaptiveAttention(8, num_gaussians=0)
    with pytest.raises(ValueError, match="axis got 'space'"):
        DensityAdaptiveAttention(8, axis="space")
    published = build(form="published")
    with pytest.raises(ValueError, match="x has length 1, expected at least 2"):
        published(draw(1, 1, 8))
    with pytest.raises(UnsupportedError, match="in its published form"):
        published(draw(1, 5, 8), mask=masks.keys(torch.ones(1, 5, dtype=torch.bool)))

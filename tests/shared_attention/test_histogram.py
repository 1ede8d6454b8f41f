"""Histogram self-attention beyond the conformance kit."""

from __future__ import annotations

import pytest
import torch

from shared_attention import UnsupportedError, masks
from shared_attention.mechanisms.histogram import HistogramAttention, _softmax_plus_one
from shared_attention.primitives.permutation import ascending, put_back, take


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def build(channels: int = 8, **options) -> HistogramAttention:
    torch.manual_seed(0)
    return HistogramAttention(channels, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ascending_sorts_and_keeps_the_order_of_equals(dtype):
    x = torch.tensor([[0.5, -2.0, 0.5, -3e38, 1e-40, float("inf"), -0.5, -2.0]], dtype=dtype)
    order = ascending(x)
    assert torch.equal(order, torch.sort(x, dim=-1, stable=True).indices)
    assert torch.equal(put_back(take(x, order), order), x)


def test_permutations_can_be_differentiated_twice():
    x = draw(2, 7).double().requires_grad_()
    order = ascending(x)
    for change in (take, put_back):
        assert torch.autograd.gradgradcheck(lambda y, f=change: f(y, order) ** 3, x)


def test_softmax_plus_one_is_its_formula_and_does_not_overflow():
    scores = draw(3, 5)
    formula = scores.exp() / (1 + scores.exp().sum(-1, keepdim=True))
    torch.testing.assert_close(_softmax_plus_one(scores), formula)
    assert _softmax_plus_one(torch.full((1, 4), 1e4)).sum() == 1
    assert (_softmax_plus_one(torch.full((1, 4), -1e4)) == 0).all()


def test_high_temperatures_stay_finite():
    module = build()
    module.temperature.data.fill_(1e3)
    assert module(draw(1, 6, 6, 8)).isfinite().all()


def test_bins_reach_across_the_image():
    module, x = build(num_heads=2), draw(1, 12, 12, 8).requires_grad_()
    reach = torch.autograd.grad(module(x)[0, 0, 0].sum(), x)[0].abs().sum(-1)[0]
    assert (reach[8:, 8:] > 0).any()


def test_results_go_back_to_the_pixels_they_came_from():
    """Without scores every pixel gets the square of a constant times its rank's mean."""
    module, x = build(2, num_heads=1), draw(1, 5, 6, 2)
    for layer in (module.qkv, module.qkv_dwconv, module.project_out):
        torch.nn.init.zeros_(layer.weight)
    module.qkv.weight.data[8:, :, 0, 0] = torch.eye(2)
    module.qkv_dwconv.weight.data[:, 0, 1, 1] = 1.0
    module.project_out.weight.data[:, :, 0, 0] = torch.eye(2)
    out, values = module(x), x.flatten(0, 2)
    by_rank = (values.sort(0).values.sum(1) / 3) ** 2
    torch.testing.assert_close(out[..., 1].flatten()[values[:, 1].argsort()], by_rank)
    torch.testing.assert_close(out[..., 0].flatten().sort().values, by_rank.sort().values)
    smallest = values[:, 0].argmin()
    torch.testing.assert_close(out[..., 0].flatten()[smallest], by_rank[0])


def test_wrong_requests_are_refused():
    with pytest.raises(ValueError, match="num_heads got 3 with 8 channels"):
        HistogramAttention(8, num_heads=3)
    with pytest.raises(UnsupportedError, match="histogram cannot honour a key padding mask"):
        build()(draw(1, 4, 4, 8), mask=masks.keys(torch.ones(1, 16, dtype=torch.bool)))
    with pytest.raises(ValueError, match="with 2 grid dimensions"):
        build()(draw(1, 16, 8))

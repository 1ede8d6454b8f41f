"""What is particular to aggregated attention: any image size, one joint softmax."""

from __future__ import annotations

import pytest
import torch

from shared_attention.mechanisms import aggregated
from shared_attention.mechanisms.aggregated import AggregatedAttention
from shared_attention.primitives import near_and_far
from shared_attention.primitives.grid_blocks import around_blocks, blocks, join_blocks
from shared_attention.references.aggregated import reference_aggregated


def build(**options):
    torch.manual_seed(0)
    module = AggregatedAttention(8, num_heads=2, **options).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module


@pytest.mark.parametrize("grid", [(1, 1), (2, 9), (5, 4), (11, 6)])
@pytest.mark.parametrize(
    "options", [{}, {"window": 5, "reduction": 4}, {"window": 1}, {"pretrained": 14}]
)
def test_every_size_of_image_and_window_equals_the_definition(grid, options):
    module = build(**options)
    x = torch.randn(2, *grid, 8, dtype=torch.float64)
    expected = reference_aggregated(x, dict(module.named_parameters()), num_heads=2, **options)
    torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize("options", [{"window": 5}, {"window": 1, "reduction": 4}, {}])
@pytest.mark.parametrize("grid", [(2, 9), (7, 14)])
@pytest.mark.parametrize("at_once", [1, 2**18], ids=["one sample", "all samples"])
def test_the_gradient_written_out_is_that_of_the_definition(grid, options, at_once, monkeypatch):
    module = build(**options)
    x = torch.randn(3, *grid, 8, dtype=torch.float64, requires_grad=True)
    wanted, weight = (x, *module.parameters()), torch.randn_like(x)
    monkeypatch.setattr(near_and_far, "SCORES_AT_ONCE", at_once)
    found = torch.autograd.grad(module(x), wanted, weight)
    monkeypatch.setattr(aggregated, "near_and_far", near_and_far._plain)
    for mine, expected in zip(found, torch.autograd.grad(module(x), wanted, weight), strict=True):
        torch.testing.assert_close(mine, expected)


def test_weights_outside_the_tokens_sum_to_one_over_both_kinds_of_keys():
    module = build()
    with torch.no_grad():
        module.tokens.zero_(), module.token_bias.zero_()
        module.kv.weight[8:].zero_(), module.kv.bias[8:].fill_(1)
        module.proj.weight.copy_(torch.eye(8)), module.proj.bias.zero_()
    out = module(torch.randn(1, 6, 7, 8, dtype=torch.float64))
    torch.testing.assert_close(out, torch.ones_like(out))


def test_a_pixel_reaches_the_far_side_through_pooled_keys():
    module = build(reduction=4)
    x = torch.randn(1, 12, 12, 8, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(module(x)[0, 0, 0].sum(), x)
    assert (gradient != 0).all()


@pytest.mark.parametrize("grid", [(3, 4), (9, 10)])
@pytest.mark.parametrize(("size", "reach"), [(4, 1), (4, 2), (5, 0)])
def test_blocks_and_what_is_around_them(grid, size, reach):
    x = torch.arange(1.0, 1 + grid[0] * grid[1]).reshape(1, *grid, 1)
    cut = blocks(x, size)
    assert torch.equal(join_blocks(cut, size, grid), x)
    around = around_blocks(x, size, reach)[0, :, :, 0]
    side = size + 2 * reach
    rows = -(-grid[0] // size)
    padded = torch.nn.functional.pad(x[0, :, :, 0], (reach, 2 * side, reach, 2 * side))
    for number, values in enumerate(around):
        a, b = divmod(number, len(around) // rows)
        expected = padded[a * size : a * size + side, b * size : b * size + side]
        assert torch.equal(values, expected.flatten())


def test_options_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="num_heads 3 does not divide channels 8"):
        AggregatedAttention(8, num_heads=3)
    with pytest.raises(ValueError, match="window got 4, expected an odd number"):
        AggregatedAttention(8, window=4)
    with pytest.raises(ValueError, match="reduction got 0, expected at least 1"):
        AggregatedAttention(8, reduction=0)


def test_it_trains_after_a_first_call_in_inference_mode():
    layer = build()
    x = torch.randn(1, 13, 19, 8, dtype=torch.float64)
    with torch.inference_mode():
        layer(x)
    layer(x.requires_grad_()).square().mean().backward()
    assert x.grad.isfinite().all() and x.grad.any()

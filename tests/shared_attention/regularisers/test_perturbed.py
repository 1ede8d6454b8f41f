"""Perturbations reach the scores of the chosen calls and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from shared_attention import UnsupportedError, explain, masks
from shared_attention.layers import KeyValueCache, MultiHeadAttention
from shared_attention.regularisers import perturbed, probed

X = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
VALID = torch.arange(5) < torch.tensor([[5], [3]])


def pair() -> nn.ModuleDict:
    return nn.ModuleDict({"a": MultiHeadAttention(16, 4), "b": MultiHeadAttention(16, 4)})


def run(model: nn.ModuleDict, *, bias: torch.Tensor | None = None) -> torch.Tensor:
    mask = masks.keys(VALID)
    return model["b"](model["a"](X, mask=mask, bias=bias), mask=mask)


def test_it_is_the_bias_of_the_chosen_layer():
    model = pair()
    own, extra = torch.randn(4, 5, 5), torch.randn(2, 4, 5, 5)
    with perturbed(model, {"a": [extra]}):
        out = run(model, bias=own)
    torch.testing.assert_close(out, run(model, bias=own + extra))
    assert (out - run(model, bias=own)).abs().max() > 1e-3
    with perturbed(model, {"b": [torch.zeros(5, 1)]}):
        unmoved = run(model)
    torch.testing.assert_close(unmoved, run(model))
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_hidden_keys_stay_hidden():
    model = pair()
    extra = torch.zeros(2, 4, 5, 5)
    extra[1, ..., 3:] = 1e4
    with perturbed(model, {"a": [extra], "b": [extra]}):
        moved = run(model)
    torch.testing.assert_close(moved, run(model))


def test_each_call_of_a_shared_layer_has_its_own():
    layer = MultiHeadAttention(16, 4)
    first, second = torch.randn(2, 4, 5, 5), torch.randn(2, 4, 2, 5)
    with perturbed(layer, {"": [first, second]}):
        y = layer(X)
        z = layer(y[:, :2], y)
    y_expected = layer(X, bias=first)
    torch.testing.assert_close(y, y_expected)
    torch.testing.assert_close(z, layer(y[:, :2], y, bias=second))


def test_explanations_of_a_perturbed_pass_have_the_perturbation_once():
    layer = MultiHeadAttention(16, 4)
    extra = 2 * torch.randn(2, 4, 5, 5)
    with perturbed(layer, {"": [extra]}), explain.capture(layer) as maps:
        layer(X)
    found = maps[""]
    with explain.capture(layer) as maps:
        layer(X, bias=extra)
    torch.testing.assert_close(found, maps[""])


def test_gradients_at_zero_equal_finite_differences():
    model = pair().double()
    weights = torch.randn(2, 5, 16, dtype=torch.float64)

    def loss(scale: float = 0, direction: torch.Tensor | None = None) -> torch.Tensor:
        given = {} if direction is None else {"b": [scale * direction]}
        with perturbed(model, given) if given else probed(model, ["b"]) as probes:
            x = X.double()
            mask = masks.keys(VALID)
            out = model["b"](model["a"](x, mask=mask), mask=mask)
            value = (out * weights).square().sum()
        if not given:
            (found,) = torch.autograd.grad(value, probes["b"])
            return found
        return value

    gradient = loss()
    assert (gradient[1, ..., 3:] == 0).all()
    direction = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    slope = (loss(1e-5, direction) - loss(-1e-5, direction)) / 2e-5
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("count", [0, 2])
def test_the_number_of_calls_has_to_fit(count):
    model = pair()
    given = {"a": [torch.zeros(1, 1, 1, 1)] * count}
    with pytest.raises(ValueError, match="layer 'a' was called"), perturbed(model, given):
        run(model)


def test_calls_with_a_cache_are_said_to_take_none():
    layer = MultiHeadAttention(16, 4)
    message = r"1 times fewer .* a cache take none"
    given = {"": [torch.zeros(5, 5)]}
    with pytest.raises(ValueError, match=message), perturbed(layer, given):
        layer(X, cache=KeyValueCache())


def test_mechanisms_without_gradients_of_the_bias_are_refused():
    model = nn.ModuleDict({"a": MultiHeadAttention(16, 4, mechanism="linear")})
    for context in (perturbed(model, {"a": []}), probed(model)):
        message = r"perturbing the scores of layer 'a'.*bias_grad"
        with pytest.raises(UnsupportedError, match=message), context:
            pass


def test_an_error_inside_is_not_hidden_by_the_count():
    model = pair()
    with pytest.raises(KeyError, match="inside"), perturbed(model, {"a": [X]}):
        raise KeyError("inside")
    assert not any(m._forward_pre_hooks for m in model.modules())

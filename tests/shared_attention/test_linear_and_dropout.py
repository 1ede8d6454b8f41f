"""The fast linear layer and dropout against the ones of torch.nn."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from shared_attention import linear as linear_module
from shared_attention.dropout import Dropout, dropout
from shared_attention.linear import Linear


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "shape",
    [(17, 5, 7), (2, 3, 4, 7), (4, 7), (1, 5, 7), (2, 8, 7), (3, 4, 16, 7), (32, 7), (0, 7)],
)
def test_linear_is_the_linear_of_torch(shape, bias, monkeypatch):
    monkeypatch.setattr(linear_module, "_WORTHWHILE", 0)
    layer = Linear(7, 6, bias=bias)
    x = torch.randn(shape, requires_grad=True)
    expected = functional.linear(x, layer.weight, layer.bias)
    ours = layer(x)
    torch.testing.assert_close(ours, expected)
    leaves = [x, *layer.parameters()]
    upstream = torch.randn_like(expected)
    for mine, theirs in zip(
        torch.autograd.grad(ours, leaves, upstream),
        torch.autograd.grad(expected, leaves, upstream),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


def test_linear_takes_inputs_of_any_strides(monkeypatch):
    monkeypatch.setattr(linear_module, "_WORTHWHILE", 0)
    layer, x = Linear(5, 4), torch.randn(3, 5, 6).transpose(1, 2)
    torch.testing.assert_close(layer(x), functional.linear(x, layer.weight, layer.bias))


def test_linear_starts_as_that_of_torch():
    torch.manual_seed(3)
    ours = Linear(4, 3)
    torch.manual_seed(3)
    theirs = nn.Linear(4, 3)
    assert torch.equal(ours.weight, theirs.weight) and torch.equal(ours.bias, theirs.bias)


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9])
def test_dropout_zeroes_that_share_and_keeps_the_mean(p):
    torch.manual_seed(0)
    x = torch.ones(400_003, requires_grad=True)
    out = dropout(x, p)
    share = (out == 0).float().mean().item()
    assert abs(share - p) < 5 * (p * (1 - p) / len(x)) ** 0.5 + 2**-16
    assert out.unique().numel() == 2
    assert out.max().item() == pytest.approx(1 / (1 - p), rel=1e-3)
    out.sum().backward()
    assert torch.equal(x.grad, out.detach())


def test_dropout_follows_the_seed_and_is_off_in_evaluation():
    layer, x = Dropout(0.3), torch.randn(5, 7)
    torch.manual_seed(1)
    first = layer(x)
    torch.manual_seed(1)
    assert torch.equal(first, layer(x))
    assert not torch.equal(first, layer(x))
    assert layer.eval()(x) is x


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_dropout_of_nothing_and_of_everything(p):
    x = torch.randn(9)
    assert torch.equal(dropout(x, p), x * (1 - p))


def test_dropped_elements_are_independent():
    torch.manual_seed(0)
    dropped = (dropout(torch.ones(4000, 8), 0.5) == 0).float()
    correlation = torch.corrcoef(dropped.T) - torch.eye(8)
    assert correlation.abs().max() < 0.08

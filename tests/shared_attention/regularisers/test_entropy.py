"""Entropy counts what is visible, nothing else, and has finite gradients."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from shared_attention import masks
from shared_attention.layers import MultiHeadAttention
from shared_attention.regularisers import Attended, attended, entropy, entropy_loss, row_entropy


def call(weights: torch.Tensor, rows: torch.Tensor | None = None) -> Attended:
    rows = torch.ones(1, weights.shape[-2], dtype=torch.bool) if rows is None else rows
    return Attended("a", weights, weights != 0, rows)


def test_even_and_peaked_rows():
    weights = torch.tensor([[0.25] * 4, [0.0, 1.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]])
    expected = torch.tensor([math.log(4), 0.0, math.log(2)])
    torch.testing.assert_close(row_entropy(weights), expected)
    torch.testing.assert_close(row_entropy(-3 * weights), expected)


def test_gradient_equals_finite_differences_and_is_finite_at_zero():
    weights = torch.rand(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(row_entropy, weights)
    scores = torch.tensor([[0.0, -200.0, -torch.inf], [0.0, 0.0, -torch.inf]], requires_grad=True)
    row_entropy(scores.softmax(-1)).sum().backward()
    assert scores.grad.isfinite().all()
    zeros = torch.zeros(2, 3, requires_grad=True)
    row_entropy(zeros).sum().backward()
    assert torch.equal(zeros.grad, torch.zeros(2, 3))


def test_half_precision_is_summed_in_single():
    weights = torch.rand(2, 500).softmax(-1)
    found = row_entropy(weights.to(torch.bfloat16))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, row_entropy(weights), atol=2e-3, rtol=2e-3)


def test_the_mean_leaves_padding_and_empty_rows_out():
    weights = torch.tensor([[[0.5, 0.5], [1.0, 0.0], [0.0, 0.0]]])[None]
    assert entropy([call(weights)]) == pytest.approx(math.log(2) / 2)
    padded = call(weights, torch.tensor([[True, False, True]]))
    assert entropy([padded]) == pytest.approx(math.log(2))
    assert entropy_loss([padded, call(weights)]) == pytest.approx(-0.75 * math.log(2))
    none = replace(padded, rows=torch.zeros(1, 3, dtype=torch.bool))
    assert entropy([none]) == 0
    with pytest.raises(ValueError, match=r"run the model inside attended\(model\)"):
        entropy([])


def test_more_padding_changes_nothing():
    layer = MultiHeadAttention(8, 2)
    x = torch.randn(2, 6, 8)

    def loss(extra: int) -> tuple[torch.Tensor, torch.Tensor]:
        layer.zero_grad()
        wide = torch.cat([x, torch.randn(2, extra, 8)], 1)
        valid = torch.arange(6 + extra) < torch.tensor([[6], [4]])
        with attended(layer) as calls:
            layer(wide, mask=masks.keys(valid))
        value = entropy_loss(calls)
        value.backward()
        return value, layer.project_in.weight.grad.clone()

    for short, long in zip(loss(0), loss(5), strict=True):
        torch.testing.assert_close(short, long)


@pytest.mark.parametrize("mechanism", ["softmax", "linear", "selective", "scan"])
def test_minimising_the_loss_evens_attention_out(mechanism):
    torch.manual_seed(0)
    model = nn.Sequential(MultiHeadAttention(8, 2, mechanism=mechanism))
    with torch.no_grad():
        model[0].project_in.weight.mul_(4)
    x = torch.randn(4, 6, 8)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    values = []
    for _ in range(15):
        optimiser.zero_grad()
        with attended(model) as calls:
            model(x)
        loss = entropy_loss(calls)
        loss.backward()
        optimiser.step()
        values.append(-float(loss.detach()))
    assert values[-1] > values[0] + 0.02

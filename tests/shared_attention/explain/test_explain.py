"""Effective attention matrices are exact, and statistics of them are what they say."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from shared_attention import attention, attention_output, explain, masks
from shared_attention.layers import EncoderLayer, MultiHeadAttention

VALID = torch.arange(11) < torch.tensor([[11], [6]])


@pytest.mark.parametrize("name", ["softmax", "window", "linear"])
def test_matrix_times_values_is_the_output(name):
    q, k, v = torch.randn(2, 4, 11, 4), torch.randn(2, 2, 11, 4), torch.randn(2, 2, 11, 5)
    mask = masks.causal() & masks.keys(VALID)
    matrix = explain.attention_matrix(name, q, k, mask=mask)
    assert matrix.shape == (2, 4, 11, 11)
    out = attention(q, k, v, name, mask)
    torch.testing.assert_close(matrix @ v.repeat_interleave(2, 1), out, atol=1e-5, rtol=1e-5)
    assert (matrix.masked_fill(mask.to_dense(11, 11), 0) == 0).all()
    rich = attention_output(q, k, v, name, mask, need=("weights",))
    torch.testing.assert_close(rich.weights, matrix, atol=1e-6, rtol=1e-5)


def test_capture_records_each_layer_of_the_latest_pass_and_leaves_no_trace():
    torch.manual_seed(0)
    model = nn.Sequential(
        EncoderLayer(MultiHeadAttention(8, 2), 8, 16, dropout=0.5),
        EncoderLayer(MultiHeadAttention(8, 2, mechanism="linear"), 8, 16),
    )
    x = torch.randn(2, 5, 8)
    torch.manual_seed(1)
    plain = model(x)
    torch.manual_seed(1)
    with explain.capture(model) as maps:
        assert torch.equal(model(x), plain)
        first = dict(maps)
    assert list(maps) == ["0.attention", "1.attention"]
    layer = model[0].attention
    expected = layer.output(x, need=("weights",)).weights
    torch.testing.assert_close(maps["0.attention"], expected)
    model(torch.randn(2, 5, 8))
    assert maps["0.attention"] is first["0.attention"]


def test_rollout_of_uniform_and_of_identity():
    identity = torch.eye(3).expand(1, 2, 3, 3)
    torch.testing.assert_close(explain.rollout([identity, identity]), torch.eye(3)[None])
    uniform = torch.full((1, 2, 3, 3), 1 / 3)
    step = 0.5 * torch.eye(3) + torch.full((3, 3), 1 / 6)
    torch.testing.assert_close(explain.rollout([uniform, uniform]), (step @ step)[None])
    with pytest.raises(ValueError, match="rollout: got no matrices, expected one per layer"):
        explain.rollout([])
    with pytest.raises(ValueError, match=r"matrix 1 has shape \[1, 1, 2, 3\]"):
        explain.rollout([identity, torch.zeros(1, 1, 2, 3)])


def test_head_statistics():
    uniform = torch.full((4, 4), 0.25)
    previous = torch.eye(4).roll(-1, 1)
    previous[0] = 0
    maps = {"layer": torch.stack([uniform, previous])[None]}
    statistics = explain.head_statistics(maps)["layer"]
    torch.testing.assert_close(statistics["entropy"], torch.tensor([math.log(4), 0.0]))
    torch.testing.assert_close(statistics["distance"], torch.tensor([1.25, 1.0]))

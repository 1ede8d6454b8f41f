"""Recorded weights are the true ones, carry gradients, and know what the masks hide."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from shared_attention import UnsupportedError, masks
from shared_attention.layers import EncoderLayer, KeyValueCache, MultiHeadAttention
from shared_attention.regularisers import attended, perturbed

X = torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(0))
VALID = torch.arange(7) < torch.tensor([[7], [4]])


class Twice(nn.Module):
    """One layer called for self-attention, then from a shorter query to what came out."""

    def __init__(self, mechanism: str = "softmax") -> None:
        super().__init__()
        self.layer = MultiHeadAttention(16, 4, mechanism=mechanism)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = masks.keys(VALID)
        y = self.layer(x, mask=mask)
        return self.layer(x[:, :3], y, mask=mask)


@pytest.mark.parametrize("name", ["softmax", "linear", "selective", "clipped_softmax", "landmark"])
def test_weights_times_values_are_what_the_layer_joined(name):
    torch.manual_seed(1)
    layer = MultiHeadAttention(16, 4, mechanism=name).eval()
    mask = masks.keys(VALID)
    with attended(layer) as calls:
        out = layer(X, mask=mask)
    (call,) = calls
    v = layer.project(X, None, 0)[2]
    joined = layer.project_out((call.weights @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(joined, out, atol=1e-5, rtol=1e-5)
    assert (call.weights[1, ..., 4:] == 0).all()


def test_gradients_equal_those_of_softmax_written_out():
    layer = MultiHeadAttention(16, 4)
    with attended(layer) as calls:
        layer(X, mask=masks.causal() & masks.keys(VALID))
    calls[0].weights.square().sum().backward()
    found = layer.project_in.weight.grad.clone()
    layer.zero_grad()
    q, k, _ = layer.project(X, None, 0)
    hidden = torch.ones(7, 7, dtype=torch.bool).triu(1) | ~VALID[:, None, None]
    scores = (q @ k.mT / 2).masked_fill(hidden, -torch.inf)
    scores.softmax(-1).square().sum().backward()
    torch.testing.assert_close(found, layer.project_in.weight.grad)
    assert found.abs().sum() > 0


def test_gradients_reach_parameters_of_mechanisms_that_are_applied_to_the_identity():
    layer = MultiHeadAttention(16, 4, mechanism="selective")
    with attended(layer) as calls:
        layer(X)
    calls[0].weights.square().sum().backward()
    assert layer.mechanism.query_weight.grad.abs().sum() > 0


def test_calls_come_in_order_with_masks_and_rows():
    model = Twice()
    with attended(model) as calls:
        model(X)
    assert [call.layer for call in calls] == ["layer", "layer"]
    itself, across = calls
    assert torch.equal(itself.rows, VALID)
    assert torch.equal(across.rows, torch.ones(1, 3, dtype=torch.bool))
    assert across.weights.shape == (2, 4, 3, 7)
    assert torch.equal(across.allowed, VALID[:, None, None])


def test_a_recurrent_mechanism_sees_the_past_only():
    layer = MultiHeadAttention(16, 4, mechanism="scan")
    with attended(layer) as calls:
        layer(X)
    past = torch.ones(7, 7, dtype=torch.bool).tril()
    assert torch.equal(calls[0].allowed[0, 0], past)
    torch.testing.assert_close(calls[0].weights.sum(-1), torch.ones(2, 4, 7))
    assert (calls[0].weights[..., ~past] == 0).all()


def test_the_model_is_left_as_it_was_and_random_numbers_too():
    layers = [EncoderLayer(MultiHeadAttention(16, 4), 16, 32, dropout=0.5) for _ in range(2)]
    model = nn.Sequential(*layers)
    torch.manual_seed(3)
    plain, after = model(X), torch.rand(3)
    torch.manual_seed(3)
    with attended(model, ["1.attention"]) as calls:
        out = model(X)
    assert torch.equal(out, plain)
    assert torch.equal(torch.rand(3), after)
    assert [call.layer for call in calls] == ["1.attention"]
    model(X)
    assert len(calls) == 1
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_stochastic_mechanisms_record_the_draw_that_was_used():
    layer = MultiHeadAttention(16, 4, mechanism="prob_sparse", mechanism_options={"factor": 1})
    x = torch.randn(2, 40, 16)
    for seed in range(3):
        torch.manual_seed(seed)
        with attended(layer) as calls:
            out = layer(x)
        v = layer.project(x, None, 0)[2]
        joined = layer.project_out((calls[0].weights @ v).transpose(1, 2).flatten(2))
        torch.testing.assert_close(joined, out, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["softmax", "selective"])
def test_a_perturbation_is_recorded_once(name):
    layer = MultiHeadAttention(16, 4, mechanism=name)
    extra = 2 * torch.randn(2, 4, 7, 7)
    with perturbed(layer, {"": [extra]}), attended(layer) as outer:
        layer(X)
    with attended(layer) as inner:
        layer(X, bias=extra)
    torch.testing.assert_close(outer[0].weights, inner[0].weights)


def test_padding_that_is_not_a_number_is_not_read():
    layer = MultiHeadAttention(16, 4)
    x = X.masked_fill(~VALID[..., None], torch.nan)
    with attended(layer) as calls:
        layer(x, mask=masks.keys(VALID))
    rows = calls[0].rows[:, None].expand(2, 4, 7)
    assert calls[0].weights[rows].isfinite().all()


def test_calls_with_a_cache_are_left_out():
    layer = MultiHeadAttention(16, 4)
    with attended(layer) as calls:
        layer(X, cache=KeyValueCache())
    assert calls == []


def test_refusals_name_the_layer():
    message = "Linear has no MultiHeadAttention layer"
    with pytest.raises(ValueError, match=message), attended(nn.Linear(2, 2)):
        pass
    model = nn.ModuleDict({"first": MultiHeadAttention(16, 4)})
    message = "no attention layer 'firts'; did you mean 'first'"
    with pytest.raises(ValueError, match=message), attended(model, ["firts"]):
        pass
    model["second"] = MultiHeadAttention(16, 4, mechanism="neural_memory")
    with pytest.raises(UnsupportedError, match=r"layer 'second'.*linear_in_v"), attended(model):
        pass
    assert not model["first"].mechanism._forward_hooks

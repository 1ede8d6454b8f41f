"""Relevance against the definitions: vectors formed one by one, and autograd through weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from shared_attention import UnsupportedError, explain, masks
from shared_attention.layers import EncoderLayer, MultiHeadAttention
from shared_attention.layers.cache import KeyValueCache


def model(mechanism="softmax", kv_heads=2):
    torch.manual_seed(0)
    layers = [
        MultiHeadAttention(8, 2 * kv_heads, num_kv_heads=kv_heads, head_dim=4, mechanism=mechanism)
        for _ in range(2)
    ]
    return nn.Sequential(*(EncoderLayer(layer, 8, 16) for layer in layers))


def test_trace_holds_what_the_layer_computed():
    layer = model()[0].attention
    x = torch.randn(2, 7, 8)
    with explain.trace(layer) as traces:
        out = layer(x=x, mask=masks.causal())
    (seen,) = traces.values()
    torch.testing.assert_close(seen.weights @ seen.values, seen.out, atol=1e-6, rtol=1e-5)
    joined = torch.einsum("bhld,hdm->blm", seen.out, seen.projection) + layer.project_out.bias
    torch.testing.assert_close(joined, out)
    assert torch.equal(seen.inputs, x)
    assert (seen.weights.triu(1) == 0).all()


def test_value_relevance_is_the_length_of_what_each_key_gives():
    net = model()
    with explain.trace(net) as traces, torch.no_grad():
        net(torch.randn(2, 7, 8))
    for name, seen in traces.items():
        vectors = torch.einsum("bhls,bhsd,hdm->blsm", seen.weights, seen.values, seen.projection)
        found = explain.value_relevance(traces)[name]
        torch.testing.assert_close(found[:, 0], vectors.norm(dim=-1), atol=1e-5, rtol=1e-4)


class Open(nn.Module):
    """Softmax attention with its weights in the graph."""

    def forward(self, q, k, v, mask=None, bias=None):
        self.weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        self.weights.retain_grad()
        return self.weights @ v


def test_gradient_relevance_equals_autograd_through_the_weights():
    net = model(kv_heads=2).double()
    for layer in net:
        layer.attention = MultiHeadAttention(8, 2).double()
    x = torch.randn(2, 7, 8, dtype=torch.float64)
    with explain.trace(net) as traces:
        score = net(x)[:, 0, 3].sum()
    found = explain.gradient_relevance(traces, score)
    for layer in net:
        layer.attention.mechanism = Open()
    net(x)[:, 0, 3].sum().backward()
    for layer, (name, relevance) in zip(net, found.items(), strict=True):
        weights = layer.attention.mechanism.weights
        expected = (weights * weights.grad).clamp_min(0)
        torch.testing.assert_close(relevance, expected, msg=lambda m, n=name: f"{n}: {m}")
    assert (found["1.attention"][:, :, 1:] == 0).all()  # only the first row reaches the score


@pytest.mark.parametrize("mechanism", ["linear", "flow"])
def test_gradient_relevance_adds_up_to_the_change_of_the_score(mechanism):
    torch.manual_seed(0)
    layer = MultiHeadAttention(8, 2, mechanism=mechanism)
    with explain.trace(layer) as traces:
        score = layer(torch.randn(1, 5, 8))[0, 2].sum()
    (seen,) = traces.values()
    (slope,) = torch.autograd.grad(score, seen.out, retain_graph=True)
    whole = seen.weights * (slope @ seen.values.mT)
    (relevance,) = explain.gradient_relevance(traces, score).values()
    torch.testing.assert_close(relevance, whole.clamp_min(0))
    bias = layer.project_out.bias.sum()
    torch.testing.assert_close(whole.sum(), score - bias)


def test_gradient_relevance_needs_gradients():
    net = model()
    with explain.trace(net) as traces, torch.no_grad():
        score = net(torch.randn(1, 4, 8)).sum()
    with pytest.raises(ValueError, match="expected a scalar that requires gradients"):
        explain.gradient_relevance(traces, score)
    with pytest.raises(ValueError, match=r"layer '0.attention' ran without gradients"):
        explain.gradient_relevance(traces, torch.ones(1, requires_grad=True).sum())


def test_relevance_rollout_follows_a_chain_and_skips_layers_without_relevance():
    first, second = torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3)
    first[0, :, 1, 2] = 0.5
    second[0, :, 0, 1] = 2
    total = explain.relevance_rollout([first, torch.zeros_like(first), second])
    expected = torch.eye(3)[None].clone()
    expected[0, 1, 2], expected[0, 0, 1], expected[0, 0, 2] = 0.5, 2, 1
    torch.testing.assert_close(total, expected)
    with pytest.raises(ValueError, match="relevance_rollout: got no matrices"):
        explain.relevance_rollout([])


def test_layers_that_are_not_linear_are_refused_before_anything_runs():
    net = nn.Sequential(MultiHeadAttention(8, 2, mechanism="neural_memory"))
    for block in (explain.capture, explain.trace):
        with pytest.raises(UnsupportedError, match="layer '0'"), block(net):
            pass
    assert not net[0]._forward_pre_hooks and not net[0].mechanism._forward_hooks


def test_ablated_heads_give_nothing_streamed_or_not():
    layer = MultiHeadAttention(8, 2)
    x = torch.randn(1, 6, 8)
    with explain.trace(layer) as traces:
        layer(x, mask=masks.causal())
    (seen,) = traces.values()
    expected = seen.out[:, 1] @ seen.projection[1] + layer.project_out.bias
    with explain.ablate(layer, {"": [0]}):
        torch.testing.assert_close(layer(x, mask=masks.causal()), expected)
        cache = KeyValueCache()
        parts = [layer(part, cache=cache) for part in x.split(2, 1)]
        torch.testing.assert_close(torch.cat(parts, 1), expected)
    assert not torch.allclose(layer(x, mask=masks.causal()), expected)


def test_importance_finds_the_head_that_matters():
    layer = MultiHeadAttention(8, 4)
    with torch.no_grad():
        layer.project_out.weight[:, :4] = 0
        layer.project_out.weight[:, 6:] = 0
    x = torch.randn(2, 5, 8)
    target = layer(x).detach()
    loss = explain.head_importance(layer, lambda: -float((layer(x) - target).abs().mean()))[""]
    assert loss[2] > 0.01 and (loss[[0, 1, 3]].abs() < 1e-6).all()


@pytest.mark.parametrize("block", [explain.ablate, explain.calibrated])
def test_unknown_layers_and_heads_are_refused(block):
    net = model()
    with pytest.raises(ValueError, match=r"'0.atention'; did you mean '0.attention'"), \
            block(net, {"0.atention": [0]}):  # fmt: skip
        pass
    with pytest.raises(ValueError, match=r"got head 4, expected 0 to 3"), \
            block(net, {"0.attention": [4]}):  # fmt: skip
        pass

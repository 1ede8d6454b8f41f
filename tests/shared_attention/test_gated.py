"""Gated attention beyond the conformance kit, and layers that hand it their input."""

from __future__ import annotations

import pytest
import torch

from shared_attention import UnsupportedError, attention, catalogue, explain, masks
from shared_attention.layers import KeyValueCache, MultiHeadAttention

X = torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(0))


def build(**options):
    torch.manual_seed(0)
    return catalogue()["gated"].build(num_heads=4, head_dim=4, **options)


def heads(x):
    return x.unflatten(-1, (4, 4)).transpose(1, 2)


def draw():
    return torch.randn(3, 2, 4, 9, 4, generator=torch.Generator().manual_seed(1)).unbind(0)


@pytest.mark.parametrize("gate", ["linear", "mlp", "all_heads"])
def test_open_gates_are_softmax_and_closed_ones_do_nothing(gate):
    q, k, v = draw()
    module = build(gate=gate)
    module.bias.data.fill_(40)
    torch.testing.assert_close(module(q, k, v), attention(q, k, v))
    module.bias.data.fill_(-200)
    assert (module(q, k, v) == 0).all()


@pytest.mark.parametrize(
    ("gate", "count"),
    [("linear", 4 * (4 + 1)), ("mlp", 4 * (3 * (4 + 2) + 1)), ("all_heads", 4 * (16 + 1))],
)
def test_gates_have_the_parameters_of_the_paper_s_table(gate, count):
    assert sum(p.numel() for p in build(gate=gate, hidden=3).parameters()) == count


def test_initial_probability_is_that_of_a_zero_input():
    module = build(initial=0.25)
    torch.testing.assert_close(module.probability(torch.zeros(1, 4, 2, 4))[0, 0, 0, 0].item(), 0.25)


@pytest.mark.parametrize("mechanism", ["gated", "selective"])
def test_layers_hand_over_their_input_whole_streamed_and_explained(mechanism):
    torch.manual_seed(0)
    layer = MultiHeadAttention(16, 4, mechanism=mechanism)
    q, k, v = layer.project(X, None, 0)
    with_input = layer._join(layer.mechanism(q, k, v, masks.causal(), inputs=heads(X)))
    out = layer(X, mask=masks.causal())
    torch.testing.assert_close(out, with_input)
    assert not torch.allclose(out, layer._join(layer.mechanism(q, k, v, masks.causal())))
    cache = KeyValueCache()
    parts = [layer(X[:, i : i + 1], cache=cache) for i in range(7)]
    torch.testing.assert_close(torch.cat(parts, 1), out)
    with explain.capture(layer) as maps:
        layer(X, mask=masks.causal())
    (matrix,) = maps.values()
    torch.testing.assert_close(layer._join(matrix @ v), out)


def test_layers_of_another_head_width_fall_back_on_queries():
    layer = MultiHeadAttention(16, 4, head_dim=6, mechanism="gated")
    q, k, v = layer.project(X, None, 0)
    torch.testing.assert_close(layer(X), layer._join(layer.mechanism(q, k, v)))


def test_layers_refuse_what_the_mechanism_cannot_give():
    layer = MultiHeadAttention(16, 4, mechanism="gated")
    with pytest.raises(UnsupportedError, match="gated has parameters and gives its output only"):
        layer.output(X, need=("aux",))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"initial": 1.0}, "gated: initial got 1.0"),
        ({"gate": "mlp", "hidden": 0}, "gated: hidden got 0"),
        ({"gate": "conv"}, "option gate got 'conv'"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)

"""Agent attention beyond the conformance kit: grids, biases, the linear attention inside."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from shared_attention import UnsupportedError, masks
from shared_attention.mechanisms.agent import AgentAttention


def draw(length: int, batch: int = 2):
    random = torch.Generator().manual_seed(length)
    return torch.randn(3, batch, 2, length, 8, generator=random, dtype=torch.float64).unbind(0)


def build(**options) -> AgentAttention:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AgentAttention(2, 8, **options).double()


@pytest.mark.parametrize("grid", [(5, 7), (6, 6), (2, 3, 4)])
def test_agents_of_a_grid_are_its_adaptive_means(grid):
    axes = len(grid)
    length = torch.Size(grid).numel()
    q, k, v = draw(length)
    pool = (nn.AdaptiveAvgPool2d if axes == 2 else nn.AdaptiveAvgPool3d)(2)
    agents = pool(q.mT.flatten(0, 1).unflatten(-1, grid)).flatten(2).mT.unflatten(0, (2, 2))
    gathered = (agents @ k.mT / 8**0.5).softmax(-1) @ v
    expected = (q @ agents.mT / 8**0.5).softmax(-1) @ gathered
    module = build(agents=2**axes, grid=grid, conv=False)
    torch.testing.assert_close(module(q, k, v), expected)


def test_the_convolution_of_a_grid_sees_its_neighbours():
    q, k, v = draw(30)
    module = build(agents=4, grid=(5, 6))
    layer = nn.Conv2d(16, 16, 3, padding=1, groups=16).double()
    layer.load_state_dict({"weight": module.conv_weight, "bias": module.conv_bias})
    maps = layer(v.mT.flatten(1, 2).unflatten(-1, (5, 6)))
    plain = build(agents=4, grid=(5, 6), conv=False)(q, k, v)
    torch.testing.assert_close(module(q, k, v) - plain, maps.flatten(2).unflatten(1, (2, 8)).mT)


def test_position_biases_reach_both_attentions():
    q, k, v = draw(30)
    module = build(agents=4, grid=(5, 6), conv=False, position_bias=True)
    out = module(q, k, v)
    for bias in (module.gather_bias, module.hand_bias):
        for parameter in bias.parameters():
            gradient = torch.autograd.grad(out.square().sum(), parameter, retain_graph=True)[0]
            assert (gradient != 0).any()
    agents = module._agents(q, None)
    gathered = (agents @ k.mT / 8**0.5 + module.gather_bias()).softmax(-1) @ v
    expected = (q @ agents.mT / 8**0.5 + module.hand_bias().mT).softmax(-1) @ gathered
    torch.testing.assert_close(out, expected)


def test_as_many_agents_as_positions_are_the_queries():
    q, k, v = draw(11)
    scores = (q @ q.mT / 8**0.5).softmax(-1) @ (q @ k.mT / 8**0.5).softmax(-1)
    torch.testing.assert_close(build(agents=11, conv=False)(q, k, v), scores @ v)


def test_options_and_inputs_are_checked():
    q, k, v = draw(12)
    with pytest.raises(ValueError, match="agents got 5, expected a whole number to the power 2"):
        build(agents=5, grid=(3, 4))
    with pytest.raises(ValueError, match="position_bias needs a grid of two axes"):
        build(position_bias=True)
    with pytest.raises(ValueError, match=r"grid \(3, 5\) got a sequence of length 12"):
        build(agents=4, grid=(3, 5))(q, k, v)
    with pytest.raises(UnsupportedError, match="a grid has no padding"):
        build(agents=4, grid=(3, 4))(q, k, v, masks.keys(torch.ones(2, 12, dtype=torch.bool)))

"""Stiffness of paths whose rates are known, and of the layers of a model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from shared_attention.layers import EncoderLayer, MultiHeadAttention
from shared_attention.stiffness import stiffness, trajectory


def euler(rates: list[float], start: torch.Tensor) -> list[torch.Tensor]:
    states = [start]
    for rate in rates:
        states.append(states[-1] - rate * states[-1])
    return states


def test_a_decay_of_one_rate_has_that_rate_everywhere():
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    found = stiffness(euler([0.25] * 4, x))
    torch.testing.assert_close(found.change, torch.full((4,), 0.25).double())
    torch.testing.assert_close(found.secant, torch.full((3,), 0.25).double())
    torch.testing.assert_close(found.room, torch.full((3,), 8.0).double())
    torch.testing.assert_close(found.ratio, torch.tensor(1.0).double())


def test_the_fast_direction_decides_and_room_is_where_euler_turns_unstable():
    rates = torch.tensor([0.01, 1.5], dtype=torch.float64)

    def largest(step: float) -> torch.Tensor:
        x = torch.ones(1, 1, 2, dtype=torch.float64)
        states = [x]
        for _ in range(60):
            states.append(states[-1] - step * rates * states[-1])
        return stiffness(states[:3]).room[0], states[-1][0, 0, 1].abs()

    room, end = largest(1.0)
    assert room == pytest.approx(2 / 1.5, rel=1e-3)
    assert end < 1
    assert largest(0.99 * float(room))[1] < 1 < largest(1.01 * float(room))[1]


def test_a_sudden_turn_shows_in_its_layer():
    x = torch.randn(1, 4, 6)
    calm = torch.randn(1, 4, 6)
    states = [x + i * 0.1 * calm for i in range(4)]
    states.append(states[-1] - 2 * calm)
    found = stiffness(states)
    assert found.secant.argmax() == 2 and found.change.argmax() == 3
    torch.testing.assert_close(found.secant[2], torch.tensor(21.0), rtol=1e-4, atol=0)
    torch.testing.assert_close(found.secant[0], torch.tensor(0.0), rtol=0, atol=1e-4)


def test_padding_and_positions_that_stand_still_are_left_out():
    x = torch.randn(2, 4, 5)
    states = euler([0.5, 0.5], x)
    valid = torch.tensor([[True] * 4, [True, False, False, False]])
    poisoned = [s.masked_fill(~valid[..., None], torch.nan) for s in states]
    torch.testing.assert_close(stiffness(poisoned, valid).secant, torch.tensor([0.5]))
    still = [s.index_fill(1, torch.tensor([2]), 1.0) for s in states]
    torch.testing.assert_close(stiffness(still).secant, torch.tensor([0.5]))


def model() -> nn.Sequential:
    return nn.Sequential(*(EncoderLayer(MultiHeadAttention(8, 2), 8, 16) for _ in range(3)))


def test_trajectory_has_the_states_between_layers_and_gradients():
    layers, x = model(), torch.randn(2, 4, 8)
    with trajectory(layers) as states:
        out = layers(x)
    assert len(states) == 4
    assert states[0] is x and states[-1] is out
    torch.testing.assert_close(states[2], layers[1](layers[0](x)))
    stiffness(states).secant.sum().backward()
    assert layers[0].attention.project_in.weight.grad.abs().sum() > 0
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in layers.modules())
    with trajectory(layers, ["1", "2"]) as states:
        layers(x)
    assert len(states) == 3


def test_refusals():
    with pytest.raises(ValueError, match="got 2 states, expected at least 3"):
        stiffness([torch.zeros(1, 1, 2)] * 2)
    with pytest.raises(ValueError, match=r"state 1 has shape \[1, 2, 2\]"):
        stiffness([torch.zeros(1, 1, 2), torch.zeros(1, 2, 2), torch.zeros(1, 1, 2)])
    message = "Linear has no EncoderLayer or DecoderLayer"
    with pytest.raises(ValueError, match=message), trajectory(nn.Linear(2, 2)):
        pass
    layers = model()
    with pytest.raises(ValueError, match="no layer '7'"), trajectory(layers, ["0", "7"]):
        pass
    assert not layers[0]._forward_hooks

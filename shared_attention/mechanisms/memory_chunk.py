"""One chunk of Titans' neural memory, written and read by matrix products."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from shared_attention.primitives.decayed_scan import decay_matrix

NORM_EPS = 1e-6

Weights = tuple[Tensor, ...]
"""One matrix per layer of the memory, `[B, H, in, out]`."""


class MemoryState(NamedTuple):
    """A memory of its own for each sample and head; at least float32."""

    weights: Weights
    """As they are after the last position."""
    momentum: Weights
    """Past surprise, S in the paper."""
    start: Weights
    """As they were where the current chunk began: gradients are taken there."""
    filled: Tensor
    """Positions of the current chunk so far, int64 `[B]`."""


def advance(
    state: MemoryState, q: Tensor, k: Tensor, v: Tensor, gates: Tensor
) -> tuple[Tensor, Weights, Weights]:
    """Write and read the positions of one chunk `[B, H, C, ...]`."""
    step, log_momentum, log_keep, real = gates.split(1, -1)
    kept = decay_matrix(log_keep) * real.mT
    carried = decay_matrix(log_momentum)
    from_weights, from_momentum = log_keep.cumsum(2).exp(), log_momentum.cumsum(2).exp()
    through_momentum = kept @ from_momentum
    written = kept @ carried
    layers, surprises = _surprise(k, v, step, state.start)
    weights, momentum = [], []
    x = q
    for n, (into, surprise) in enumerate(zip(layers, surprises, strict=True)):
        weight, past = state.weights[n], state.momentum[n]
        x = F.gelu(x) if n else x
        fresh = (written * (x @ into.mT)) @ surprise
        x = from_weights * (x @ weight) + through_momentum * (x @ past) - fresh
        last = written[:, :, -1:].mT, carried[:, :, -1:].mT
        weights.append(
            from_weights[:, :, -1:] * weight
            + through_momentum[:, :, -1:] * past
            - into.mT @ (last[0] * surprise)
        )
        momentum.append(from_momentum[:, :, -1:] * past - into.mT @ (last[1] * surprise))
    return x, tuple(weights), tuple(momentum)


def _surprise(
    k: Tensor, v: Tensor, step: Tensor, weights: Weights
) -> tuple[list[Tensor], list[Tensor]]:
    """Each layer's input and θ times the gradient at its output: their products are θ ∇."""
    inputs, raw = [k], []
    for weight in weights:
        raw.append(inputs[-1] @ weight)
        inputs.append(F.gelu(raw[-1]))
    gradients = [2 * step * (raw[-1] - v)]
    for weight, before in zip(weights[:0:-1], raw[-2::-1], strict=True):
        gradients.append((gradients[-1] @ weight.mT) * _gelu_slope(before))
    return inputs[:-1], gradients[::-1]


def _gelu_slope(x: Tensor) -> Tensor:
    density = (-x.square() / 2).exp() / math.sqrt(2 * math.pi)
    return (1 + (x / math.sqrt(2)).erf()) / 2 + x * density


def unit(x: Tensor) -> Tensor:
    """Divide rows by their length; a row of zeros stays one."""
    return x * (x.square().sum(-1, keepdim=True) + NORM_EPS).rsqrt()


def fill_slots(x: Tensor, slot: Tensor, size: int) -> Tensor:
    """Move position i of `x [B, H, L, D]` to `slot [B, L]`; slot `size` is dropped."""
    empty = x.new_zeros(*x.shape[:2], size + 1, x.shape[3])
    return empty.scatter(2, slot[:, None, :, None].expand_as(x), x)[:, :, :size]


def read_slots(x: Tensor, slot: Tensor) -> Tensor:
    """Undo `fill_slots`; what was dropped reads as another position."""
    return x.take_along_dim(slot[:, None, :, None].clamp(max=x.shape[2] - 1), 2)

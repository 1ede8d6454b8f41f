"""The kit finds faults of mixers, poolings and graph operators: sound toys, broken in one way."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn

from shared_attention import masks
from shared_attention.refusal import refuse_parts
from shared_attention.spec import Capabilities, MechanismSpec
from shared_attention.testing import OPERATOR_CHECKS, check_mechanism


def valid_of(x, mask):
    valid = masks.split(mask).keys
    return torch.ones(x.shape[:2], dtype=torch.bool) if valid is None else valid


class Mix(nn.Module):
    """Adds to each position the mean of all positions, or of those up to it, then projects."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.weight = nn.Parameter(torch.randn(channels, channels) / channels**0.5)

    def check(self, x, mask):
        if x.dim() != 3 or not x.is_floating_point() or x.shape[-1] != self.channels:
            raise ValueError(f"toy: x is {x.dtype} {list(x.shape)}, expected [B, L, channels]")
        refuse_parts(MIXER, masks.split(mask))

    def mean(self, x, real, causal):
        count = real.cumsum(1) if causal else real.sum(1, keepdim=True)
        total = x.cumsum(1) if causal else x.sum(1, keepdim=True)
        return total / count.clamp(min=1)[..., None]

    def blank(self, x, real):
        return x.masked_fill(~real[..., None], 0)

    def forward(self, x, mask=None):
        self.check(x, mask)
        real = valid_of(x, mask)
        x = self.blank(x, real)
        return self.blank((x + self.mean(x, real, masks.split(mask).causal)) @ self.weight, real)

    def init_state(self, batch, *, dtype=None, device=None):
        return torch.zeros(batch, self.channels, dtype=dtype), torch.zeros(batch, dtype=torch.long)

    def prefill(self, x, state, mask=None):
        real = valid_of(x, mask)
        x = self.blank(x, real)
        total = x.cumsum(1) + state[0][:, None]
        count = real.cumsum(1) + state[1][:, None]
        out = (x + total / count.clamp(min=1)[..., None]) @ self.weight
        return self.blank(out, real), (total[:, -1], count[:, -1])

    def step(self, x, state):
        return self.prefill(x, state)


def reference(x, parameters, mask=None):
    real, causal = valid_of(x, mask), masks.split(mask).causal
    out = torch.zeros_like(x)
    for b in range(len(x)):
        for i in range(x.shape[1]):
            seen = [j for j in range(i + 1 if causal else x.shape[1]) if real[b, j]]
            if real[b, i]:
                out[b, i] = (x[b, i] + x[b, seen].mean(0)) @ parameters["weight"]
    return out


MIXER = MechanismSpec(
    name="toy",
    family="mixer",
    title="Toy",
    paper="none",
    equation="y_i = W (x_i + mean(x))",
    complexity="O(L)",
    when_to_use="In tests.",
    correctness="It is what the kit is checked with.",
    capabilities=Capabilities(causal="exact", key_padding=True, state=True),
    module=Mix,
    reference=reference,
)


def test_a_sound_mixer_passes_every_check():
    report = check_mechanism(MIXER)
    assert report.ok, str(report)
    assert len(report.checks) == len(OPERATOR_CHECKS)
    unclaimed = {check.name for check in report.checks if check.status == "not claimed"}
    assert unclaimed == {"node order", "edge order", "separate graphs", "isolated nodes"}


class Leaks(Mix):
    def mean(self, x, real, causal):
        return super().mean(x, real, causal) + (0.01 * x.roll(-1, 1) if causal else 0)


class CountsPadding(Mix):
    def mean(self, x, real, causal):
        return super().mean(x, torch.ones_like(real), causal)


class ReadsPadding(Mix):
    def blank(self, x, real):
        return x * real[..., None]


class MixesSamples(Mix):
    def forward(self, x, mask=None):
        return super().forward(x, mask) + 0.01 * x.mean(0)


class WritesItsInput(Mix):
    def forward(self, x, mask=None):
        x.data.mul_(2)
        return super().forward(x, mask)


class AcceptsAnything(Mix):
    def check(self, x, mask):
        pass


class DropsOut(Mix):
    def forward(self, x, mask=None):
        return nn.functional.dropout(super().forward(x, mask), 0.1, training=True)


class HalfInTraining(Mix):
    def forward(self, x, mask=None):
        return super().forward(x, mask) * (0.5 if self.training else 1)


class HoldsAValueOutsideItsState(Mix):
    def __init__(self, channels):
        super().__init__(channels)
        self.gain = torch.randn(())

    def forward(self, x, mask=None):
        return super().forward(x, mask) * self.gain


class Overflows(Mix):
    def forward(self, x, mask=None):
        return super().forward(x, mask) * x.exp() / x.exp()


class StopsAGradient(Mix):
    def mean(self, x, real, causal):
        return super().mean(x, real, causal).detach()


class Rounds(Mix):
    def forward(self, x, mask=None):
        out = super().forward(x, mask)
        return out if x.dtype.itemsize > 2 else (out * 4).round() / 4


class BreaksTheGraph(Mix):
    def forward(self, x, mask=None):
        return super().forward(x, mask) * (1.0 if x.sum().item() > -1e9 else 0.0)


class ForgetsThePast(Mix):
    def prefill(self, x, state, mask=None):
        return super().prefill(x, self.init_state(len(x), dtype=x.dtype), mask)


FAULTS = [
    ("prefix consistency", Leaks),
    ("padding", CountsPadding),
    ("hidden positions", ReadsPadding),
    ("batch slots", MixesSamples),
    ("inputs unchanged", WritesItsInput),
    ("refusals", AcceptsAnything),
    ("messages", AcceptsAnything),
    ("randomness", DropsOut),
    ("training mode", HalfInTraining),
    ("state_dict", HoldsAValueOutsideItsState),
    ("extreme inputs", Overflows),
    ("gradients", StopsAGradient),
    ("agrees with the reference", StopsAGradient),
    ("half precision", Rounds),
    ("compile", BreaksTheGraph),
    ("export", BreaksTheGraph),
    ("state", ForgetsThePast),
]


@pytest.mark.parametrize(
    ("check", "module"), FAULTS, ids=[f"{m.__name__}-{check}" for check, m in FAULTS]
)
def test_a_faulty_mixer_is_found(check, module):
    spec = dataclasses.replace(MIXER, module=module)
    assert check_mechanism(spec, checks=(check,)).failed == (check,)


class Neighbours(nn.Module):
    """The mean over incoming edges of projected neighbours, weighted by the edge."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.weight = nn.Parameter(torch.randn(channels, channels) / channels**0.5)

    def sums(self, values, target, count):
        return values.new_zeros(count, values.shape[1]).index_add(0, target, values)

    def forward(self, x, edge_index, edge_features):
        for name, value, dim in (("x", x, self.channels), ("edge_features", edge_features, 1)):
            if value.dim() != 2 or not value.is_floating_point() or value.shape[1] != dim:
                raise ValueError(f"toy: {name} is {value.dtype} {list(value.shape)}")
        source, target = edge_index
        total = self.sums((x @ self.weight)[source] * edge_features, target, len(x))
        return total / self.sums(torch.ones_like(edge_features), target, len(x)).clamp(min=1)


def neighbours_reference(x, edge_index, edge_features, parameters):
    matrix = x.new_zeros(len(x), len(x))
    for (source, target), weight in zip(edge_index.T.tolist(), edge_features[:, 0], strict=True):
        matrix[target, source] += weight / (edge_index[1] == target).sum()
    return matrix @ x @ parameters["weight"]


def graphs(batch, generator):
    pairs = torch.tensor([[0, 1, 2, 2, 3, 4, 0], [1, 2, 0, 3, 1, 0, 4]])
    drawn = [
        (torch.randn(5, 8, generator=generator), torch.randn(7, 1, generator=generator))
        for _ in range(batch)
    ]
    return {
        "x": torch.cat([nodes for nodes, _ in drawn]).double(),
        "edge_index": torch.cat([pairs + 5 * i for i in range(batch)], 1),
        "edge_features": torch.cat([edges for _, edges in drawn]).double(),
    }


GRAPH = dataclasses.replace(
    MIXER,
    family="graph",
    capabilities=Capabilities(),
    module=Neighbours,
    reference=neighbours_reference,
    sample=graphs,
)


class DependsOnNumbers(Neighbours):
    def forward(self, x, edge_index, edge_features):
        out = super().forward(x, edge_index, edge_features)
        return out * (1 + 0.01 * torch.arange(len(x))[:, None])


class DependsOnListing(Neighbours):
    def sums(self, values, target, count):
        place = torch.arange(len(values))[:, None]
        return super().sums(values * (1 + 0.01 * place), target, count)


class MeetsOtherGraphs(Neighbours):
    def forward(self, x, edge_index, edge_features):
        return super().forward(x - x.mean(0), edge_index, edge_features)


class AddsABias(Neighbours):
    def forward(self, x, edge_index, edge_features):
        return super().forward(x, edge_index, edge_features) + 1


class DividesByNothing(Neighbours):
    def forward(self, x, edge_index, edge_features):
        out = super().forward(x, edge_index, edge_features)
        return out / (out.abs().sum(-1, keepdim=True) / math.inf + out.abs().amax(-1, True))


def test_a_sound_graph_operator_passes_every_check():
    report = check_mechanism(GRAPH)
    assert report.ok, str(report)


@pytest.mark.parametrize(
    ("check", "module"),
    [
        ("node order", DependsOnNumbers),
        ("edge order", DependsOnListing),
        ("separate graphs", MeetsOtherGraphs),
        ("isolated nodes", AddsABias),
        ("isolated nodes", DividesByNothing),
    ],
)
def test_a_faulty_graph_operator_is_found(check, module):
    spec = dataclasses.replace(GRAPH, module=module)
    assert check_mechanism(spec, checks=(check,)).failed == (check,)


def test_an_operator_is_built_with_its_sizes_and_required_options():
    with pytest.raises(ValueError, match="toy: build needs channels"):
        MIXER.build()
    with pytest.raises(ValueError, match="toy has no option 'window'"):
        MIXER.build(channels=8, window=3)
    assert isinstance(MIXER.build(channels=8), Mix)

"""The conformance kit finds faults: a sound toy mechanism, broken in one way at a time."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from shared_attention import masks
from shared_attention.masks import Mask
from shared_attention.refusal import accept
from shared_attention.spec import Capabilities, MechanismSpec
from shared_attention.testing import CHECKS, check_mechanism


def visible_keys(mask: Mask | None, q: Tensor, k: Tensor) -> Tensor:
    if mask is None:
        return torch.ones(1, 1, 1, k.shape[2], dtype=torch.bool)
    return mask.to_dense(q.shape[2], k.shape[2])


def weights(q: Tensor, k: Tensor, visible: Tensor, scale: float | None = None) -> Tensor:
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    scores = (q @ k.mT * scale).masked_fill(~visible, torch.finfo(q.dtype).min)
    return scores.softmax(-1) * visible


def blank(k: Tensor, v: Tensor, mask: Mask | None) -> tuple[Tensor, Tensor]:
    valid = masks.split(mask).keys
    if valid is None:
        return k, v
    hidden = ~valid[:, None, :, None]
    return k.masked_fill(hidden, 0), v.masked_fill(hidden, 0)


def sound(q, k, v, *, mask=None, scale=None):
    accept(SOUND, q, k, v, mask)
    k, v = blank(k, v, mask)
    return weights(q, k, visible_keys(mask, q, k), scale) @ v


def reference(q, k, v, *, mask=None, scale=None):
    return sound(q.double(), k.double(), v.double(), mask=mask, scale=scale)


class Seen(NamedTuple):
    k: Tensor
    v: Tensor
    valid: Tensor


def init_state(batch, kv_heads, key_dim, value_dim, *, dtype=None, device=None):
    k = torch.zeros(batch, kv_heads, 0, key_dim, dtype=dtype, device=device)
    v = torch.zeros(batch, kv_heads, 0, value_dim, dtype=dtype, device=device)
    return Seen(k, v, torch.zeros(batch, 0, dtype=torch.bool))


def prefill(q, k, v, state, *, mask=None, scale=None):
    valid = torch.ones(k.shape[0], k.shape[2], dtype=torch.bool) if mask is None else mask.valid
    state = Seen(
        torch.cat([state.k, k], 2), torch.cat([state.v, v], 2), torch.cat([state.valid, valid], 1)
    )
    mask = masks.causal() & masks.keys(state.valid)
    return sound(q, state.k, state.v, mask=mask), state


SOUND = MechanismSpec(
    name="toy",
    family="attention",
    title="Toy",
    paper="none",
    equation="softmax(q k) v",
    complexity="O(L²)",
    when_to_use="In tests.",
    correctness="It is what the kit is checked with.",
    capabilities=Capabilities(causal="exact", cross=True, key_padding=True, state=True),
    function=sound,
    reference=reference,
    init_state=init_state,
    prefill=prefill,
    step=prefill,
)


def broken(function=None, **changes) -> MechanismSpec:
    if function is not None:
        changes["function"] = function
    return dataclasses.replace(SOUND, **changes)


def test_a_sound_mechanism_passes_every_check():
    report = check_mechanism(SOUND)
    assert report.ok, str(report)
    assert len(report.checks) == len(CHECKS)
    unclaimed = {check.name for check in report.checks if check.status == "not claimed"}
    assert unclaimed == {"training mode", "state_dict"}


def sees_one_key_ahead(q, k, v, *, mask=None, scale=None):
    visible = visible_keys(mask, q, k)
    if masks.split(mask).causal:
        visible = visible | visible.roll(1, -1)
    k, v = blank(k, v, mask)
    return weights(q, k, visible) @ v


def picks_rows_by_later_ones(q, k, v, *, mask=None, scale=None):
    out = sound(q, k, v, mask=mask)
    size = q.square().sum(-1, keepdim=True)
    return torch.where(size >= size.median(2, keepdim=True).values, out, v.cumsum(2))


def drops_key_mask(q, k, v, *, mask=None, scale=None):
    return sound(q, k, v, mask=masks.causal() if masks.split(mask).causal else None)


def mixes_samples(q, k, v, *, mask=None, scale=None):
    return sound(q - 0.01 * q.mean(0), k, v, mask=mask)


def writes_its_input(q, k, v, *, mask=None, scale=None):
    q.data.mul_(q.shape[-1] ** -0.5)
    return sound(q, k, v, mask=mask, scale=1.0)


def leaves_nan_in_empty_rows(q, k, v, *, mask=None, scale=None):
    k, v = blank(k, v, mask)
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    return scores.masked_fill(~visible_keys(mask, q, k), -torch.inf).softmax(-1) @ v


def reads_masked_values(q, k, v, *, mask=None, scale=None):
    return weights(q, blank(k, v, mask)[0], visible_keys(mask, q, k)) @ v


def counts_padding(q, k, v, *, mask=None, scale=None):
    return sound(q, k, v, mask=mask, scale=1 / math.sqrt(q.shape[-1] + 0.1 * k.shape[2]))


def drops_out_in_evaluation(q, k, v, *, mask=None, scale=None):
    return nn.functional.dropout(sound(q, k, v, mask=mask), 0.1, training=True)


CALLS = torch.Generator().manual_seed(0)


def draws_from_a_module_level_generator(q, k, v, *, mask=None, scale=None):
    out = sound(q, k, v, mask=mask)
    return out + 1e-3 * torch.randn(out.shape, generator=CALLS)


def forgets_the_width_root(q, k, v, *, mask=None, scale=None):
    return sound(q, k, v, mask=mask, scale=1 / q.shape[-1])


def stops_a_gradient(q, k, v, *, mask=None, scale=None):
    return sound(q, k.detach(), v, mask=mask)


def overflows(q, k, v, *, mask=None, scale=None):
    k, v = blank(k, v, mask)
    raised = (q @ k.mT / math.sqrt(q.shape[-1])).exp() * visible_keys(mask, q, k)
    return raised / raised.sum(-1, keepdim=True).clamp(min=1e-30) @ v


def accepts_any_mask(q, k, v, *, mask=None, scale=None):
    return weights(q, k, visible_keys(mask, q, k)) @ v


def rounds_scores(q, k, v, *, mask=None, scale=None):
    coarse = sound(q, k, v, mask=mask)
    return coarse if q.dtype.itemsize > 2 else (coarse * 16).round() / 16


def breaks_the_graph(q, k, v, *, mask=None, scale=None):
    return sound(q, k, v, mask=mask) * (1.0 if q.sum().item() > -1e9 else 0.0)


def adds_to_the_output(q, k, v, *, mask=None, scale=None):
    return sound(q, k, v, mask=mask) + 1.0


def asserts_its_inputs(q, k, v, *, mask=None, scale=None):
    assert q.shape == k.shape
    return sound(q, k, v, mask=mask)


FAULTS = [
    ("prefix consistency", sees_one_key_ahead),
    ("prefix consistency", picks_rows_by_later_ones),
    ("agrees with the reference", drops_key_mask),
    ("padding", drops_key_mask),
    ("batch slots", mixes_samples),
    ("inputs unchanged", writes_its_input),
    ("empty rows", leaves_nan_in_empty_rows),
    ("hidden keys", reads_masked_values),
    ("padding", counts_padding),
    ("randomness", drops_out_in_evaluation),
    ("randomness", draws_from_a_module_level_generator),
    ("agrees with the reference", forgets_the_width_root),
    ("agrees with the reference", stops_a_gradient),
    ("gradients", stops_a_gradient),
    ("extreme scores", overflows),
    ("refusals", accepts_any_mask),
    ("half precision", rounds_scores),
    ("compile", breaks_the_graph),
    ("export", breaks_the_graph),
    ("linear in values", adds_to_the_output),
    ("messages", asserts_its_inputs),
]


@pytest.mark.parametrize(
    ("check", "function"), FAULTS, ids=[f"{f.__name__}-{check}" for check, f in FAULTS]
)
def test_a_faulty_function_is_found(check, function):
    assert check_mechanism(broken(function), checks=(check,)).failed == (check,)


def forgets_the_past(q, k, v, state, *, mask=None, scale=None):
    return prefill(q, k, v, init_state(*k.shape[:2], k.shape[3], v.shape[3]), mask=mask)


def ignores_padding(q, k, v, state, *, mask=None, scale=None):
    return prefill(q, k, v, state)


def writes_the_state(q, k, v, state, *, mask=None, scale=None):
    out, after = prefill(q, k, v, state, mask=mask)
    state.v.mul_(2)
    return out, after


@pytest.mark.parametrize("fault", [forgets_the_past, ignores_padding, writes_the_state])
def test_a_faulty_state_is_found(fault):
    assert check_mechanism(broken(prefill=fault, step=fault), checks=("state",)).failed == (
        "state",
    )


class Running(nn.Module):
    """A recurrent mechanism: a weighted running sum of v."""

    def __init__(self, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_heads, head_dim))

    def forward(self, k, v, mask=None):
        return (v * (k * self.weight[:, None]).sum(-1, keepdim=True)).cumsum(2)


class RunningHalfInTraining(Running):
    def forward(self, k, v, mask=None):
        return super().forward(k, v) * (0.5 if self.training else 1.0)


class RunningForgetful(Running):
    def __init__(self, num_heads: int, head_dim: int) -> None:
        super().__init__(num_heads, head_dim)
        self.gain = torch.randn(())

    def forward(self, k, v, mask=None):
        return super().forward(k, v) * self.gain


def recurrent(module) -> MechanismSpec:
    return dataclasses.replace(
        SOUND,
        family="recurrent",
        function=None,
        module=module,
        capabilities=Capabilities(causal="exact"),
    )


@pytest.mark.parametrize(
    ("check", "module"),
    [("training mode", RunningHalfInTraining), ("state_dict", RunningForgetful)],
)
def test_a_faulty_module_is_found(check, module):
    assert check_mechanism(recurrent(Running), checks=(check,)).ok
    assert check_mechanism(recurrent(module), checks=(check,)).failed == (check,)


def test_an_expected_failure_is_accepted_with_its_reason():
    spec = broken(mixes_samples)
    why = {"batch slots": "as published"}
    report = check_mechanism(spec, checks=("batch slots",), expected_failures=why)
    assert report.ok
    assert report.checks[0].status == "expected failure"
    assert report.checks[0].reason.startswith("as published (sample 0 alone and in a batch")


def test_an_expected_failure_that_passes_is_reported():
    why = {"batch slots": "as published"}
    report = check_mechanism(SOUND, checks=("batch slots",), expected_failures=why)
    assert not report.ok
    assert report.checks[0].reason == "passes, though expected to fail: as published"


def test_the_report_prints_a_table():
    report = check_mechanism(broken(mixes_samples), checks=("state_dict", "batch slots"))
    lines = str(report).splitlines()
    assert lines[0] == "toy: 0 passed, 1 failed"
    assert lines[1] == "  state_dict   not claimed       has no parameters"
    assert lines[2].startswith("  batch slots  failed            sample 0 alone and in a batch")


def test_an_unknown_check_is_refused():
    with pytest.raises(ValueError, match="no check 'speed'; there are agrees with the reference,"):
        check_mechanism(SOUND, checks=("speed",))

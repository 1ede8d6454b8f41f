"""A v is the output of every mechanism that is linear in v, whatever the mask; others refuse."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from shared_attention import UnsupportedError, catalogue, explain, masks
from shared_attention.testing.operator import Operator
from shared_attention.testing.subject import Subject

SPECS = catalogue()
LINEAR = [name for name, spec in SPECS.items() if spec.family in ("attention", "recurrent")
          and spec.supports("linear_in_v")]  # fmt: skip
BENT = [name for name, spec in SPECS.items() if spec.family == "attention"
        and not spec.supports("linear_in_v")]  # fmt: skip
OPERATORS = [n for n, s in SPECS.items() if s.family not in ("attention", "recurrent")]
MIXED = ("lama", "position", "channel", "swin_window", "plus_window", "deformable",
         "deformable_3d", "graph_attention")  # fmt: skip


@pytest.mark.parametrize("name", LINEAR)
def test_matrix_times_values_is_the_output(name):
    subject = Subject(SPECS[name])
    torch.manual_seed(0)
    module = SPECS[name].build(num_heads=4, head_dim=8).eval()
    for kind, mask in subject.masks(2, 19, 19).items():
        mask = subject.required(mask)
        q, k, v = subject.draw(2, 19, grad=False)
        inputs = (None, k) if subject.recurrent else (q, k)
        matrix = explain.attention_matrix(module, *inputs, mask=mask)
        out = module(*inputs[subject.recurrent :], v, mask=mask)
        torch.testing.assert_close(matrix @ v, out, atol=1e-5, rtol=0, msg=f"{name}: {kind}")


@pytest.mark.parametrize("mask", [None, masks.causal(), masks.window(3, 2)])
def test_matrix_of_softmax_is_its_weights(mask):
    torch.manual_seed(0)
    q, k = torch.randn(2, 4, 13, 8), torch.randn(2, 4, 13, 8)
    scores = q.double() @ k.double().mT / math.sqrt(8)
    if mask is not None:
        scores = scores.masked_fill(~mask.to_dense(13, 13), -math.inf)
    matrix = explain.attention_matrix("softmax", q, k, mask=mask)
    torch.testing.assert_close(matrix.double(), scores.softmax(-1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", BENT)
def test_mechanisms_that_are_not_linear_are_refused_by_name_and_as_modules(name):
    q = torch.randn(1, 4, 6, 8)
    module = SPECS[name].build(num_heads=4, head_dim=8)
    for mechanism in (name, module):
        with pytest.raises(UnsupportedError, match=f"{name} cannot honour .*linear_in_v"):
            explain.attention_matrix(mechanism, q, q, mask=masks.causal())


class Foreign(nn.Module):
    """Softmax attention, of values that may be bent."""

    def __init__(self, bend):
        super().__init__()
        self.bend = bend

    def forward(self, q, k, v, mask=None, bias=None):
        return (q @ k.mT).softmax(-1) @ self.bend(v)


def test_foreign_modules_are_tried():
    torch.manual_seed(0)
    q, k = torch.randn(1, 2, 6, 4), torch.randn(1, 2, 6, 4)
    for dtype in (torch.float32, torch.float64):
        matrix = explain.attention_matrix(Foreign(nn.Identity()), q.to(dtype), k.to(dtype))
        torch.testing.assert_close(matrix, (q.to(dtype) @ k.to(dtype).mT).softmax(-1))
    for bend in (torch.tanh, lambda v: v + 1, lambda v: v * v.abs().sum()):
        with pytest.raises(UnsupportedError, match=r"Foreign cannot honour .* not linear in v"):
            explain.attention_matrix(Foreign(bend), q, k)


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_have_a_matrix_that_gives_their_output_or_say_why_not(name):
    operator = Operator(SPECS[name])
    module = operator.module()
    inputs = operator.inputs(grad=False)
    with pytest.raises(UnsupportedError, match="operator_matrix"):
        explain.attention_matrix(module, inputs["x"], inputs["x"])
    if name not in MIXED:
        with pytest.raises(UnsupportedError, match=f"{name} cannot honour an effective matrix: .."):
            explain.operator_matrix(module, **inputs)
        return
    grids = SPECS[name].dims if SPECS[name].sample is None else (None,)
    for dims in grids:
        module = operator.module(dims=dims)
        inputs = operator.inputs(dims=dims, grad=False)
        count = inputs["x"][0, ..., 0].numel()
        kinds = [None]
        if SPECS[name].supports("key_padding"):
            kinds.append(masks.keys(torch.rand(3, count) > 0.3))
        for mask in kinds:
            given = inputs if mask is None else {**inputs, "mask": mask}
            with torch.no_grad():
                found = explain.operator_matrix(module, **given)
                check_output(name, module, given, found)


def check_output(name, module, inputs, found):
    out, x, mixed = module(**inputs), inputs["x"], found.mixed
    valid = torch.ones(x.shape[:-1], dtype=torch.bool)
    if "mask" in inputs:
        valid = inputs["mask"].valid.reshape(valid.shape)
    elif name == "plus_window":
        valid = inputs["valid"] & (out.abs().sum(-1) > 0)
    x = x * valid[..., None]
    heads = mixed.transpose(1, 2).flatten(2)
    if name == "lama":
        rebuilt, valid = mixed[:, :, 0], torch.ones(out.shape[:-1], dtype=torch.bool)
    elif name == "position":
        rebuilt = x + module.gamma * mixed[:, 0].view(x.shape)
    elif name == "channel":
        rebuilt = x + module.gamma * mixed[:, 0].mT.reshape(x.shape)
    elif name == "graph_attention":
        rebuilt = heads[0]
    else:
        project = {"swin_window": "proj", "plus_window": "project_out"}.get(name, "output_proj")
        rebuilt = getattr(module, project)(heads).view(out.shape)
    expected = out * valid[..., None]
    torch.testing.assert_close(rebuilt * valid[..., None], expected, atol=1e-5, rtol=1e-5)


def test_operators_without_a_rule_are_named():
    with pytest.raises(UnsupportedError, match=r"Linear cannot .* there is no rule .* lama"):
        explain.operator_matrix(nn.Linear(2, 2), x=torch.zeros(1, 2))

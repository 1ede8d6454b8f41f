"""What cannot be honoured is refused in words; what can be compiled compiles whole."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from shared_attention import (
    AttentionOutput,
    UnsupportedError,
    attention,
    attention_output,
    catalogue,
    explain_dispatch,
    masks,
    registry,
)
from shared_attention.module import Attention

Q = torch.zeros(1, 2, 8, 4)


def able(capability: str) -> str:
    return ", ".join(s.name for s in catalogue().values() if s.supports(capability)) or "none"


@pytest.mark.parametrize(
    ("arguments", "capability", "what"),
    [
        ({"mask": masks.causal() | masks.prefix(2)}, "dense_mask", "a composed mask"),
        (
            {"mask": masks.document(torch.zeros(1, 8, dtype=torch.int64))},
            "dense_mask",
            "a document mask",
        ),
        ({"mask": masks.window(1, 1)}, "window", "a window mask"),
        ({"bias": torch.zeros(8, 8)}, "bias", "an additive bias"),
        ({"scale": 0.5}, "scale", "a score scale"),
        ({"generator": torch.Generator()}, "stochastic", "a generator"),
    ],
)
def test_missing_capability_is_named_with_the_mechanisms_that_have_it(arguments, capability, what):
    with pytest.raises(UnsupportedError) as error:
        attention(Q, Q, Q, "linear", **arguments)
    assert str(error.value) == (
        f"linear cannot honour {what}: it lacks the capability {capability}; "
        f"mechanisms that have it: {able(capability)}"
    )


def test_direct_calls_refuse_the_same():
    from shared_attention.mechanisms.linear import linear_attention

    with pytest.raises(UnsupportedError, match="linear cannot honour a window mask"):
        linear_attention(Q, Q, Q, mask=masks.window(1, 1))


def test_explicit_backend_never_falls_back():
    with pytest.raises(UnsupportedError) as error:
        attention(Q, Q, Q, bias=torch.zeros(8, 8), backend="blocks")
    assert str(error.value) == (
        "softmax cannot serve this call; blocks: the mask has no window, it takes no bias"
    )
    with pytest.raises(ValueError, match=r"softmax has no backend 'spda'; did you mean 'sdpa'\?"):
        attention(Q, Q, Q, backend="spda")
    with pytest.raises(UnsupportedError, match="flex: no gradients on CPU, no float64"):
        x = Q.double().requires_grad_()
        attention(x, x, x, backend="flex")


def test_auto_records_its_choice():
    assert attention_output(Q, Q, Q).backend == "sdpa"
    assert attention_output(Q, Q, Q, mask=masks.window(1, 0)).backend == "blocks"
    assert attention_output(Q, Q, Q, need=("lse",)).backend == "eager"
    assert attention_output(Q, Q, Q, "linear").backend == "eager"


def test_explain_dispatch_prints_every_backend():
    report = explain_dispatch(Q, Q, Q, mask=masks.causal())
    assert report.chosen == "sdpa"
    assert str(report).splitlines() == [
        "softmax: auto takes sdpa",
        "  blocks   the mask has no window",
        "  sdpa     can",
        "  flex     can",
        "  eager    can",
        "  lean     can",
    ]


def test_mechanisms_with_parameters_point_to_build(monkeypatch):
    spec = dataclasses.replace(
        catalogue()["linear"], name="learned", function=None, module=Attention
    )
    monkeypatch.setitem(registry._specs, "learned", spec)
    with pytest.raises(UnsupportedError) as error:
        attention(Q, Q, Q, "learned")
    assert str(error.value) == (
        "learned has parameters, so attention() cannot serve it; build the module: "
        "catalogue()['learned'].build(num_heads=..., head_dim=...)"
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: attention(Q, Q, Q, "sofmax"),
            "no attention mechanism 'sofmax'; did you mean 'softmax'?",
        ),
        (
            lambda: attention(Q, Q, Q, "window", lefd=1),
            "window has no option 'lefd'; did you mean 'left'?",
        ),
        (
            lambda: attention(Q, Q, Q, "window", left="3"),
            "window: option left got '3', expected int",
        ),
        (
            lambda: attention(Q, Q, Q, "window", left=True),
            "window: option left got True, expected int",
        ),
        (
            lambda: attention(Q[0], Q, Q),
            "attention: q has shape [2, 8, 4], expected [batch, heads, length, dim]",
        ),
        (
            lambda: attention(Q, Q.double(), Q),
            "attention: k is torch.float64 but q is torch.float32",
        ),
        (lambda: attention(Q, Q[..., :3], Q), "attention: q has width 4 but k has 3"),
        (lambda: attention(Q, Q, Q[:, :, :5]), "attention: k has length 8 but v has 5"),
        (
            lambda: attention(Q[:, :1], Q, Q),
            "attention: k has 2 heads, which do not divide the 1 of q",
        ),
        (
            lambda: attention(Q, Q, Q, mask=torch.ones(8, 8, dtype=torch.bool)),
            "attention: mask is a Tensor; "
            "wrap a boolean tensor (True = may attend) in masks.dense(...)",
        ),
        (
            lambda: attention(Q, Q, Q, bias=torch.ones(8, 8, dtype=torch.bool)),
            "attention: bias has dtype torch.bool, expected a float type; "
            "boolean masks go to mask=masks.dense(...)",
        ),
        (
            lambda: attention(Q, Q, Q, bias=torch.ones(3, 8)),
            "attention: bias has shape [3, 8], expected one that broadcasts to [1, 2, 8, 8]",
        ),
        (
            lambda: attention_output(Q, Q, Q, need=("weight",)),
            "attention_output: need got 'weight', expected weights, lse, state, aux",
        ),
        (
            lambda: attention_output(Q, Q, Q, need=("state",)),
            "softmax: need='state' continues causal attention; "
            "use mask=masks.causal(), with masks.keys(valid) where there is padding",
        ),
        (
            lambda: catalogue()["softmax"].supports("causality"),
            "no capability 'causality'; did you mean 'causal'?",
        ),
    ],
)
def test_wrong_calls_say_what_was_expected(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == message


def test_no_flag_changes_the_return_type():
    assert isinstance(attention(Q, Q, Q), torch.Tensor)
    assert isinstance(attention_output(Q, Q, Q), AttentionOutput)
    assert isinstance(attention_output(Q, Q, Q, need=("weights",)), AttentionOutput)


def test_inputs_are_left_alone():
    q = torch.randn(2, 2, 8, 4)
    before = q.clone()
    valid = torch.tensor([[True] * 6 + [False] * 2] * 2)
    for name in ("softmax", "window", "linear"):
        attention(q, q, q, name, masks.keys(valid))
    assert torch.equal(q, before)


@pytest.mark.parametrize("name", ["softmax", "window", "linear"])
def test_compiles_whole_with_masks_made_inside(name):
    def call(q, valid):
        return attention(q, q, q, name, masks.causal() & masks.keys(valid))

    torch._dynamo.reset()
    q = torch.randn(2, 2, 40, 8)
    valid = torch.arange(40) < torch.tensor([[40], [30]])
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(q, valid), call(q, valid))


@pytest.mark.parametrize("name", ["softmax", "window", "linear"])
def test_exports(name):
    module = Attention(name)
    q = torch.randn(2, 2, 40, 8)
    program = torch.export.export(module, (q, q, q))
    torch.testing.assert_close(program.module()(q, q, q), module(q, q, q))


def test_specs_that_cannot_be_called_are_refused():
    spec = catalogue()["linear"]
    with pytest.raises(ValueError) as error:
        dataclasses.replace(spec, function=None)
    assert str(error.value) == "mechanism linear: give function or module"
    with pytest.raises(ValueError) as error:
        dataclasses.replace(spec, step=None)
    assert str(error.value) == (
        "mechanism linear: claims state, so give init_state, prefill and step"
    )


class Entry:
    """What importlib.metadata gives for one entry point."""

    def __init__(self, name: str, value: object) -> None:
        self.name, self.value, self._loaded = name, "package.module:SPEC", value

    def load(self) -> object:
        return self._loaded


def entries(monkeypatch, *found: Entry) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda group: found)
    monkeypatch.setattr(registry, "_complete", False)
    monkeypatch.setattr(registry, "_specs", dict(registry._specs))


def test_third_parties_add_mechanisms(monkeypatch):
    spec = dataclasses.replace(catalogue()["linear"], name="theirs")
    entries(monkeypatch, Entry("theirs", spec))
    assert list(catalogue())[-1] == "theirs"
    assert attention(Q, Q, Q, "theirs").shape == Q.shape


def test_third_parties_cannot_take_a_name_or_register_something_else(monkeypatch):
    entries(monkeypatch, Entry("linear", catalogue()["linear"]))
    with pytest.raises(ValueError, match="a mechanism of that name exists already; rename it"):
        catalogue()
    entries(monkeypatch, Entry("theirs", 3))
    with pytest.raises(ValueError, match="expected a MechanismSpec named 'theirs', got 3"):
        catalogue()

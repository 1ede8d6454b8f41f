"""Checks of good conduct: inputs, randomness, training mode, refusals, messages."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from shared_attention import masks
from shared_attention.errors import UnsupportedError
from shared_attention.masks import Mask
from shared_attention.testing.report import NotClaimed
from shared_attention.testing.subject import HEADS, WIDTH, Subject
from shared_attention.testing.tolerances import assert_close


def check_inputs_unchanged(subject: Subject) -> None:
    """No input is written to."""
    for name, mask in subject.masks(2, 17, 17).items():
        inputs = subject.draw(2, 17, grad=False)
        before = [x.clone() for x in inputs]
        subject.run(*inputs, mask)
        for which, x, old in zip("qkv", inputs, before, strict=True):
            assert torch.equal(x, old), f"{which} was written to ({name})"


def check_linear_in_values(subject: Subject) -> None:
    """Applied to the identity it gives the matrix A with out = A v."""
    if not subject.spec.capabilities.linear_in_v or not subject.spec.capabilities.value_dim:
        raise NotClaimed("does not claim to be linear in v")
    for name, mask in subject.masks(2, 17, 17).items():
        q, k, v = subject.draw(2, 17, grad=False)
        identity = torch.eye(17).expand(*v.shape[:3], 17)
        matrix = subject.run(q, k, identity, mask)
        assert_close(matrix @ v, subject.run(q, k, v, mask), f"matrix times v ({name})")


def check_training_mode(subject: Subject) -> None:
    """The module gives the same in training and in evaluation."""
    if subject.spec.capabilities.train_eval_differs:
        raise NotClaimed("declares that training differs")
    if subject.spec.module is None:
        raise NotClaimed("is a function: it has no mode")
    inputs = subject.draw(2, 17, grad=False)
    module = subject.module(HEADS, WIDTH, torch.float32)
    evaluated = subject.run(*inputs, module=module.eval())
    trained = subject.run(*inputs, module=module.train())
    assert_close(trained, evaluated, "training against evaluation")


def check_randomness(subject: Subject) -> None:
    """Calls repeat themselves, and neither read nor move the global random state."""
    inputs = subject.draw(2, 33, grad=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        before = torch.get_rng_state()
        first = subject.run(*inputs)
        assert torch.equal(torch.get_rng_state(), before), "the global random state was moved"
        torch.manual_seed(2)
        second = subject.run(*inputs)
    assert torch.equal(first, second), "two calls with the same inputs differ"
    if subject.spec.supports("stochastic"):
        seeded = [
            subject.run(*inputs, generator=torch.Generator().manual_seed(7)) for _ in range(2)
        ]
        assert torch.equal(seeded[0], seeded[1]), "two calls with the same generator seed differ"


def check_refusals(subject: Subject) -> None:
    """What is not claimed raises UnsupportedError that names the mechanism."""
    valid = torch.ones(2, 17, dtype=torch.bool)
    requests: dict[str, Mask] = {
        "causal": masks.causal(),
        "window": masks.window(2, 1),
        "key_padding": masks.keys(valid),
        "dense_mask": masks.document(valid.long()),
    }
    plain = subject.draw(2, 17, grad=False)
    for capability, mask in requests.items():
        able = subject.spec.supports(capability) or subject.spec.supports("dense_mask")
        if not able:
            _refused(subject, partial(subject.call, *plain, mask), capability)
    if subject.recurrent:
        return
    if subject.always_causal:
        bare = subject.spec.function or subject.module(HEADS, WIDTH, torch.float32)
        _refused(subject, partial(bare, *plain), "a call without a causal mask")
    if not subject.spec.supports("cross"):
        cross = subject.draw(2, 17, 9, grad=False)
        _refused(subject, partial(subject.call, *cross), "cross")
    if not subject.spec.supports("grouped_heads"):
        grouped = subject.draw(2, 17, kv_heads=HEADS // 2, grad=False)
        _refused(subject, partial(subject.call, *grouped), "grouped_heads")


def _refused(subject: Subject, call: Callable[[], Tensor], capability: str) -> None:
    try:
        call()
    except UnsupportedError as error:
        assert subject.spec.name in str(error), f"the refusal of {capability} names no mechanism"
    else:
        raise AssertionError(f"{capability} is not claimed, yet was not refused")


def check_messages(subject: Subject) -> None:
    """Inputs of the wrong rank, type or number of heads raise ValueError naming the argument."""
    q, k, v = subject.draw(2, 9, grad=False)
    wrong: dict[str, tuple[str, Tensor, Tensor, Tensor]] = {
        "rank": ("k", q, k[0], v),
        "integers": ("v", q, k, v.long()),
        "two types": ("v", q, k, v.double()),
        "lengths": ("v", q, k, v[:, :, :5]),
        "heads": ("v", q, k, torch.cat([v, v[:, :1]], 1)),
    }
    for name, (argument, *inputs) in wrong.items():
        try:
            subject.call(inputs[0], inputs[1], inputs[2])
        except ValueError as error:
            text = str(error)
            assert f"{argument} " in text and "\n" not in text, f"{name}: unclear message: {text}"
        else:
            raise AssertionError(f"wrong inputs were accepted: {name} of {argument}")


def check_state_dict(subject: Subject) -> None:
    """Saved parameters loaded into a fresh module give the same output."""
    if subject.spec.module is None:
        raise NotClaimed("has no parameters")
    inputs = subject.draw(2, 17, grad=False)
    module = subject.module(HEADS, WIDTH, torch.float32)
    options = subject.spec.resolve(subject.options)
    fresh = subject.spec.module(num_heads=HEADS, head_dim=WIDTH, **options).eval()
    fresh.load_state_dict(module.state_dict())
    what = "a fresh module with the same state_dict"
    assert_close(subject.run(*inputs, module=fresh), subject.run(*inputs, module=module), what)

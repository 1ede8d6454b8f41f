"""Checks of how an operator behaves: inputs, modes, randomness, refusals, what is saved."""

from __future__ import annotations

import torch
from torch import Tensor

from shared_attention import masks
from shared_attention.errors import UnsupportedError
from shared_attention.masks import Mask
from shared_attention.testing.operator import (
    BATCH,
    GRIDS,
    Operator,
    float_tensors,
    samples,
)
from shared_attention.testing.report import NotClaimed
from shared_attention.testing.tolerances import assert_close


def check_inputs_unchanged(operator: Operator) -> None:
    """No input is written to."""
    for dims in operator.every():
        module = operator.module(dims=dims)
        for name, mask in operator.masks(BATCH, GRIDS[1][0]).items():
            if mask is not None and dims not in (None, 1):
                continue
            inputs = operator.inputs(dims=dims, grad=False)
            before = samples(inputs, torch.clone)
            operator.run(module, inputs, mask)
            for which, x in inputs.items():
                if isinstance(x, Tensor):
                    assert torch.equal(x, before[which]), f"{which} was written to ({name})"


def check_training_mode(operator: Operator) -> None:
    """The module gives the same in training and in evaluation."""
    if operator.spec.capabilities.train_eval_differs:
        raise NotClaimed("declares that training differs")
    inputs = operator.inputs(grad=False)
    evaluated = operator.run(operator.module(), inputs)
    trained = operator.run(operator.module().train(), inputs)
    assert_close(trained, evaluated, "training against evaluation")


def check_randomness(operator: Operator) -> None:
    """Calls repeat themselves, and neither read nor move the global random state."""
    module, inputs = operator.module(), operator.inputs(grad=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        before = torch.get_rng_state()
        first = operator.run(module, inputs)
        assert torch.equal(torch.get_rng_state(), before), "the global random state was moved"
        torch.manual_seed(2)
        second = operator.run(module, inputs)
    assert torch.equal(first, second), "two calls with the same inputs differ"


def check_refusals(operator: Operator) -> None:
    """Masks that are not claimed raise UnsupportedError naming the mechanism."""
    if not operator.takes_mask():
        raise NotClaimed("takes no mask")
    inputs = operator.inputs(grad=False)
    batch, length = inputs["x"].shape[:2]
    valid = torch.ones(batch, length, dtype=torch.bool)
    requests: dict[str, Mask] = {
        "causal": masks.causal(),
        "window": masks.window(2, 1),
        "key_padding": masks.keys(valid),
        "dense_mask": masks.document(valid.long()),
    }
    for capability, mask in requests.items():
        if operator.spec.supports(capability):
            continue
        try:
            operator.run(operator.module(), inputs, mask)
        except UnsupportedError as error:
            assert operator.spec.name in str(error), f"the refusal of {capability} names nothing"
        else:
            raise AssertionError(f"{capability} is not claimed, yet was not refused")


def check_messages(operator: Operator) -> None:
    """Inputs of the wrong rank, type or width raise ValueError naming the argument."""
    inputs = operator.inputs(grad=False)
    for name, x in float_tensors(inputs).items():
        wrong: dict[str, Tensor] = {"rank": x[0], "integers": x.long()}
        if name == "x":
            wrong["channels"] = torch.cat([x, x[..., :1]], -1)
        for what, bad in wrong.items():
            if what == "rank" and operator.spec.family == "mixer" and len(operator.spec.dims) > 1:
                bad = x[0, 0]
            try:
                operator.run(operator.module(), {**inputs, name: bad})
            except ValueError as error:
                text = str(error)
                clear = f"{name} " in text and "\n" not in text
                assert clear, f"wrong {what} of {name}: unclear message: {text}"
            else:
                raise AssertionError(f"wrong inputs were accepted: {what} of {name}")


def check_state_dict(operator: Operator) -> None:
    """Saved parameters loaded into a fresh module give the same output."""
    module, inputs = operator.module(), operator.inputs(grad=False)
    arguments = {"channels": operator.channels, **operator.spec.example, **operator.options}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        fresh = operator.spec.build(**arguments).eval()
    fresh.load_state_dict(module.state_dict())
    what = "a fresh module with the same state_dict"
    assert_close(operator.run(fresh, inputs), operator.run(module, inputs), what)

"""Checks that padding and the other samples of a batch change nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from shared_attention import masks
from shared_attention.masks import Mask
from shared_attention.testing.operator import (
    BATCH,
    Operator,
    gradients_by_name,
    leaves,
    pick,
    samples,
)
from shared_attention.testing.report import NotClaimed
from shared_attention.testing.tolerances import assert_close

LENGTHS = (29, 8, 17)
PADDED = 33


def check_padding(operator: Operator) -> None:
    """A sample gives the same alone and padded, left or right; padding itself gives zero."""
    operator.needs("key_padding")
    module = operator.module()
    for causal in _forms(operator):
        for side in ("right", "left"):
            valid = _valid(side)
            x = operator.inputs(length=PADDED, grad=False)["x"]
            whole = operator.run(module, {"x": x}, _mask(operator, valid, causal))
            for b, real in enumerate(valid):
                own = {"x": x[b : b + 1, real]}
                alone = operator.run(module, own, operator.causal() if causal else None)
                what = f"sample of {LENGTHS[b]} padded on the {side} to {PADDED}"
                mine = whole[b : b + 1]
                if operator.spec.family != "pooling":
                    assert (mine[:, ~real] == 0).all(), f"{what}: padded positions are not zero"
                    mine = mine[:, real]
                assert_close(mine, alone, what)


def check_hidden_positions(operator: Operator) -> None:
    """NaN and infinity at padded positions reach neither the output nor a gradient."""
    operator.needs("key_padding")
    module = operator.module()
    valid = _valid("right")
    for causal in _forms(operator):
        mask = _mask(operator, valid, causal)
        clean = operator.inputs(length=PADDED)
        out = operator.run(module, clean, mask)
        expected = gradients_by_name(out, leaves(module, clean))
        for poison in (float("nan"), float("inf")):
            bad = {"x": clean["x"].detach().masked_fill(~valid[..., None], poison)}
            bad["x"].requires_grad_()
            seen = operator.run(module, bad, mask)
            assert_close(seen, out, f"output with {poison} at padded positions")
            for name, mine in gradients_by_name(seen, leaves(module, bad)).items():
                what = f"gradient of {name} with {poison} at padded positions"
                assert_close(mine, expected[name], what, "gradients")


def check_empty_samples(operator: Operator) -> None:
    """A sample without a valid position is exactly zero, with finite gradients."""
    operator.needs("key_padding")
    module = operator.module()
    valid = _valid("right")
    valid[1] = False
    for causal in _forms(operator):
        inputs = operator.inputs(length=PADDED)
        out = operator.run(module, inputs, _mask(operator, valid, causal))
        assert (out[1] == 0).all(), "a sample without any valid position is not exactly zero"
        for name, gradient in gradients_by_name(out, leaves(module, inputs)).items():
            assert gradient.isfinite().all(), f"gradient of {name} is not finite"


def check_batch_slots(operator: Operator) -> None:
    """A sample gives the same alone, beside others and in another slot."""
    if operator.spec.family == "graph":
        raise NotClaimed("has nodes instead of a batch; see 'separate graphs'")
    for dims in operator.every():
        module = operator.module(dims=dims)
        inputs = operator.inputs(dims=dims, grad=False)
        whole = operator.run(module, inputs)
        turned = operator.run(module, samples(inputs, lambda x: x.roll(1, 0)))
        assert_close(turned.roll(-1, 0), whole, "samples in other batch slots")
        for b in range(BATCH):
            alone = operator.run(module, samples(inputs, pick(b)))
            assert_close(alone, whole[b : b + 1], f"sample {b} alone and in a batch")


def _forms(operator: Operator) -> list[bool]:
    return [False, True] if operator.spec.supports("causal") else [False]


def _mask(operator: Operator, valid: Tensor, causal: bool) -> Mask:
    keys = masks.keys(valid)
    return operator.causal(keys) if causal else keys


def _valid(side: str) -> Tensor:
    position = torch.arange(PADDED)
    lengths = torch.tensor(LENGTHS)[:, None]
    return position < lengths if side == "right" else position >= PADDED - lengths

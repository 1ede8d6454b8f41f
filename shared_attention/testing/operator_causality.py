"""Checks that an operator's past never depends on its future, and that streaming is the same."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from shared_attention import masks
from shared_attention.testing.operator import (
    Operator,
    float_tensors,
    gradients_by_name,
)
from shared_attention.testing.tolerances import assert_close


def check_prefix_consistency(operator: Operator) -> None:
    """Changing later positions changes no earlier output, and no gradient flows back."""
    operator.needs("causal")
    module = operator.module()
    past, future = operator.inputs(), operator.inputs(seed=100, grad=False)
    whole = operator.run(module, past, operator.causal())
    for cut in (1, 16, 30):
        changed = {
            n: torch.cat([x[:, :cut], 3 * future[n][:, cut:]], 1).detach() for n, x in past.items()
        }
        out = operator.run(module, changed, operator.causal())
        what = f"output before position {cut} when later positions change"
        assert_close(out[:, :cut], whole[:, :cut], what)
    for name, gradient in gradients_by_name(whole[:, :20], float_tensors(past)).items():
        leaked = gradient[:, 20:].abs().max()
        assert leaked == 0, f"output before position 20 has a gradient to later {name}"


def check_state(operator: Operator) -> None:
    """The whole at once, in chunks and step by step give the same, with padding too."""
    operator.needs("state")
    module: Any = operator.module()
    x = operator.inputs(grad=False)["x"]
    valid = torch.rand(x.shape[:2], generator=torch.Generator().manual_seed(3)) > 0.3
    for keys in (None, valid) if operator.spec.supports("key_padding") else (None,):
        mask = None if keys is None else masks.keys(keys)
        whole = operator.run(module, {"x": x}, operator.causal(mask))
        for sizes in ((37,), (16, 21), (1,) * 37, (20, *(1,) * 17)):
            out = _stream(module, x, keys, sizes)
            assert_close(out, whole, f"streamed in {len(sizes)} parts against all at once")
    start = module.init_state(len(x), dtype=x.dtype, device=x.device)
    state = module.prefill(x[:, :9], start)[1]
    first = module.prefill(x[:, 9:], state)[0]
    again = module.prefill(x[:, 9:], state)[0]
    assert_close(again, first, "continuing twice from one state, which must not be written to")


def _stream(module: Any, x: Tensor, valid: Tensor | None, sizes: tuple[int, ...]) -> Tensor:
    state = module.init_state(len(x), dtype=x.dtype, device=x.device)
    at, outs = 0, []
    for size in sizes:
        own = slice(at, at + size)
        mask = None if valid is None else masks.keys(valid[:, own])
        if size == 1 and mask is None:
            out, state = module.step(x[:, own], state)
        else:
            out, state = module.prefill(x[:, own], state, mask=mask)
        outs.append(out)
        at += size
    return torch.cat(outs, 1)

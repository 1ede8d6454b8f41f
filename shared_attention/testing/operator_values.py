"""Checks of operators' values: the reference, gradients, extreme inputs, half precision."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from shared_attention.testing.operator import (
    BATCH,
    GRIDS,
    Operator,
    float_tensors,
    gradients_by_name,
    leaves,
)
from shared_attention.testing.tolerances import HALF_PRECISION_RATIO, assert_close


def check_reference(operator: Operator) -> None:
    """Values and every gradient, of parameters too, agree with the float64 reference."""
    for dims in operator.every():
        module = operator.module(dims=dims)
        inputs = operator.inputs(dims=dims)
        for name, mask in operator.masks(BATCH, GRIDS[1][0]).items():
            if mask is not None and dims not in (None, 1):
                continue
            where = f"{name}, {dims or 'own'} dimensions"
            expected = operator.reference(module, inputs, mask)
            out = operator.run(module, inputs, mask)
            assert_close(out, expected, f"output ({where})")
            wanted = leaves(module, inputs)
            theirs = gradients_by_name(expected, wanted)
            for which, mine in gradients_by_name(out, wanted).items():
                assert_close(mine, theirs[which], f"gradient of {which} ({where})", "gradients")


def check_gradients(operator: Operator) -> None:
    """Analytic gradients agree with finite differences in float64."""
    for dims in operator.every():
        module = operator.module(torch.float64, dims)
        inputs = operator.inputs(batch=2, dims=dims, dtype=torch.float64)
        names = list(float_tensors(inputs))

        def run(*values: Tensor, names: Any = names, inputs: Any = inputs, m: Any = module) -> Any:
            return operator.run(m, {**inputs, **dict(zip(names, values, strict=True))})

        values = tuple(float_tensors(inputs).values())
        passed = torch.autograd.gradcheck(run, values, raise_exception=False, fast_mode=True)
        assert passed, f"gradients differ from finite differences ({dims or 'own'} dimensions)"


def check_extreme_inputs(operator: Operator) -> None:
    """Inputs of 1e4 give finite outputs and gradients."""
    for dims in operator.every():
        module = operator.module(dims=dims)
        drawn = operator.inputs(dims=dims, grad=False)
        large = {"x"} if "x" in drawn else set(float_tensors(drawn))
        inputs = {
            name: (x * 1e4 if name in large else x).requires_grad_()
            if name in float_tensors(drawn)
            else x
            for name, x in drawn.items()
        }
        out = operator.run(module, inputs)
        assert out.isfinite().all(), "output is not finite at inputs of 1e4"
        for which, gradient in gradients_by_name(out, leaves(module, inputs)).items():
            assert gradient.isfinite().all(), f"gradient of {which} is not finite"


def check_half_precision(operator: Operator) -> None:
    """Errors in half precision stay within twice those of plain PyTorch in the same type."""
    for dtype in (torch.bfloat16, torch.float16):
        module = operator.module(dtype)
        inputs = operator.inputs(dtype=dtype, grad=False)
        with torch.no_grad():
            out = operator.run(module, inputs)
            assert out.dtype == dtype, f"output is {out.dtype} for {dtype} inputs"
            error = _relative_error(out, operator.reference(module, inputs))
            limit = HALF_PRECISION_RATIO * _plain_error(dtype)
        assert error <= limit, f"relative error {error:.1e} in {dtype}, at most {limit:.1e}"


def _plain_error(dtype: torch.dtype) -> float:
    """Error of plain softmax attention with its projections."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(BATCH, 64, 32, generator=random, dtype=torch.float64).to(dtype)
    weight = (torch.randn(4, 32, 32, generator=random, dtype=torch.float64) / 32**0.5).to(dtype)
    return _relative_error(_plain(x, weight), _plain(x.double(), weight.double()))


def _plain(x: Tensor, weight: Tensor) -> Tensor:
    q, k, v = x @ weight[0], x @ weight[1], x @ weight[2]
    return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v @ weight[3]


def _relative_error(actual: Tensor, expected: Tensor) -> float:
    expected = expected.detach().double()
    return float((actual.detach().double() - expected).abs().max() / expected.abs().max())

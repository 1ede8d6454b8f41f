"""Checks of values: the reference, gradients, extreme scores, half precision."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from shared_attention.errors import UnsupportedError
from shared_attention.inputs import check_inputs
from shared_attention.masks import Mask, split
from shared_attention.testing.report import NotClaimed
from shared_attention.testing.subject import HEADS, Subject, Three, gradients
from shared_attention.testing.tolerances import HALF_PRECISION_RATIO, assert_close

SELF_SIZES = ((1, 3), (2, 1), (63, 1), (64, 3), (65, 1), (257, 1))
"""(length, batch): one position, and around the sizes of blocks and chunks."""
CROSS_SIZES = ((5, 65), (65, 7))


def check_reference(subject: Subject) -> None:
    """Values and every input gradient agree with the float64 reference, on every backend."""
    backends = ("auto", *(backend.name for backend in subject.spec.implementations))
    for length, batch in SELF_SIZES:
        inputs = subject.draw(batch, length)
        for name, mask in subject.masks(batch, length, length).items():
            if length in (2, 65) or name in ("no mask", "causal"):
                _agree(subject, inputs, mask, None, f"{name}, L={length}, B={batch}", backends)
    if subject.spec.supports("cross") and not subject.recurrent:
        _check_cross(subject, backends)
    if subject.spec.supports("grouped_heads"):
        grouped = subject.draw(2, 33, kv_heads=HEADS // 2)
        mask = subject.causal() if subject.spec.supports("causal") else None
        _agree(subject, grouped, mask, None, "grouped heads", backends)
    if subject.spec.supports("bias"):
        bias = torch.randn(HEADS, 33, 33, generator=torch.Generator().manual_seed(2))
        bias.requires_grad_(subject.spec.supports("bias_grad"))
        _agree(subject, subject.draw(2, 33), None, bias, "bias", backends)


def _check_cross(subject: Subject, backends: tuple[str, ...]) -> None:
    for length, keys in CROSS_SIZES:
        for name, mask in subject.masks(2, length, keys).items():
            what = f"{name}, L={length}, S={keys}"
            try:
                _agree(subject, subject.draw(2, length, keys), mask, None, what, backends)
            except UnsupportedError:
                if not split(mask).causal:
                    raise


def _agree(
    subject: Subject,
    inputs: Three,
    mask: Mask | None,
    bias: Tensor | None,
    what: str,
    backends: tuple[str, ...],
) -> None:
    module = subject.own_module(inputs[0], inputs[1])
    expected = subject.reference(*inputs, mask, bias, module=module)
    learned = {} if module is None else dict(module.named_parameters())
    named = dict(zip("qkv", inputs, strict=True)) | learned
    if bias is not None and bias.requires_grad:
        named["bias"] = bias
    leaves = tuple(named.values())
    expected_gradients = gradients(expected, leaves)
    request = check_inputs(*inputs, mask, bias)
    able = {b.name for b in subject.spec.implementations if not b.why_not(request)} | {"auto"}
    for backend in backends:
        if backend not in able:
            continue
        out = subject.run(*inputs, mask, bias, backend=backend, module=module)
        where = f"{what}, backend {backend}"
        assert_close(out, expected, f"output ({where})")
        pairs = zip(named, gradients(out, leaves), expected_gradients, strict=True)
        for name, mine, theirs in pairs:
            assert_close(mine, theirs, f"gradient of {name} ({where})", "gradients")


def check_gradients(subject: Subject) -> None:
    """Analytic gradients agree with finite differences in float64."""
    for name, mask in subject.masks(2, 5, 5).items():
        inputs = subject.draw(2, 5, dtype=torch.float64, heads=2, width=3)

        def run(q: Tensor, k: Tensor, v: Tensor, mask: Mask | None = mask) -> Tensor:
            return subject.run(q, k, v, mask)

        passed = torch.autograd.gradcheck(run, inputs, raise_exception=False)
        assert passed, f"gradients differ from finite differences ({name})"


def check_extreme_scores(subject: Subject) -> None:
    """Scores of 1e4 give finite outputs and gradients, small and large ones mixed."""
    for sign in (1, -1):
        q, k, v = subject.draw(2, 33, grad=False)
        ramp = torch.linspace(0, 1, 33)[:, None] * 1e4 * math.sqrt(k.shape[-1])
        inputs = (q.sign(), sign * k.sign() * ramp / k.shape[-1], v)
        for x in inputs:
            x.requires_grad_()
        for name, mask in subject.masks(2, 33, 33).items():
            out = subject.run(*inputs, mask)
            assert out.isfinite().all(), f"output is not finite at scores of 1e4 ({name})"
            for which, gradient in zip("qkv", gradients(out, inputs), strict=True):
                assert gradient.isfinite().all(), f"gradient of {which} is not finite ({name})"


def check_half_precision(subject: Subject) -> None:
    """Errors in half precision stay within twice those of plain PyTorch in the same type."""
    if subject.spec.reference is None:
        raise NotClaimed("has no reference")
    for dtype in (torch.bfloat16, torch.float16):
        inputs = subject.draw(2, 65, dtype=dtype, grad=False)
        module = subject.own_module(inputs[0], inputs[1])
        out = subject.run(*inputs, module=module)
        assert out.dtype == dtype, f"output is {out.dtype} for {dtype} inputs"
        error = _relative_error(out, subject.reference(*inputs, module=module))
        plain = _relative_error(_plain(*inputs), _plain(*(x.double() for x in inputs)))
        limit = HALF_PRECISION_RATIO * max(plain, torch.finfo(dtype).eps)
        assert error <= limit, f"relative error {error:.1e} in {dtype}, at most {limit:.1e}"


def _plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    return scores.softmax(-1) @ v


def _relative_error(actual: Tensor, expected: Tensor) -> float:
    expected = expected.detach()
    return float((actual.detach().double() - expected).abs().max() / expected.abs().max())

"""Checks of masked keys and of samples that share a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from shared_attention import masks
from shared_attention.masks import Mask
from shared_attention.testing.subject import Subject, Three, gradients
from shared_attention.testing.tolerances import assert_close

LENGTHS = (29, 8, 17)
PADDED = 33


def check_padding(subject: Subject) -> None:
    """A sample gives the same alone and padded, left or right, whatever the padding holds."""
    subject.needs("key_padding")
    for causal in _forms(subject):
        for side in ("right", "left"):
            valid = _valid(side)
            inputs = subject.draw(len(LENGTHS), PADDED, grad=False)
            whole = subject.run(*inputs, _mask(subject, valid, causal))
            for b, real in enumerate(valid):
                q, k, v = (x[b : b + 1, :, real] for x in inputs)
                alone = subject.run(q, k, v, subject.causal() if causal else None)
                what = f"sample of {LENGTHS[b]} padded on the {side} to {PADDED}"
                assert_close(whole[b : b + 1, :, real], alone, what)
    if subject.spec.supports("cross") and not subject.recurrent:
        q, k, v = subject.draw(len(LENGTHS), 6, PADDED, grad=False)
        whole = subject.run(q, k, v, masks.keys(_valid("right")))
        for b, real in enumerate(_valid("right")):
            own = slice(b, b + 1)
            alone = subject.run(q[own], k[own, :, real], v[own, :, real])
            assert_close(whole[own], alone, f"cross attention to {LENGTHS[b]} keys, padded")


def check_batch_slots(subject: Subject) -> None:
    """A sample gives the same alone, beside others and in another slot."""
    q, k, v = subject.draw(3, 33, grad=False)
    for name, mask in subject.masks(1, 33, 33).items():
        if name in ("keys", "causal and keys", "document"):
            continue
        whole = subject.run(q, k, v, mask)
        turned = subject.run(q.roll(1, 0), k.roll(1, 0), v.roll(1, 0), mask)
        assert_close(turned.roll(-1, 0), whole, f"samples in other batch slots ({name})")
        for b in range(3):
            own = slice(b, b + 1)
            alone = subject.run(q[own], k[own], v[own], mask)
            assert_close(alone, whole[own], f"sample {b} alone and in a batch ({name})")


def check_hidden_keys(subject: Subject) -> None:
    """NaN and infinity at masked keys reach neither the output nor a gradient."""
    subject.needs("key_padding")
    for causal in _forms(subject):
        valid = _valid("right")
        mask = _mask(subject, valid, causal)
        clean = subject.draw(len(LENGTHS), PADDED)
        out = subject.run(*clean, mask)
        expected = gradients(out, clean)
        for poison in (float("nan"), float("inf")):
            q, k, v = clean
            bad = tuple(
                x.detach().masked_fill(~valid[:, None, :, None], poison).requires_grad_()
                for x in (k, v)
            )
            poisoned: Three = (q.detach().clone().requires_grad_(), bad[0], bad[1])
            seen = subject.run(*poisoned, mask)
            assert_close(seen, out, f"output with {poison} at masked keys")
            found = gradients(seen, poisoned)
            for name, mine, theirs in zip("qkv", found, expected, strict=True):
                what = f"gradient of {name} with {poison} at masked keys"
                assert_close(mine, theirs, what, "gradients")


def check_empty_rows(subject: Subject) -> None:
    """Rows that see no key are exactly zero, with finite gradients."""
    subject.needs("key_padding")
    valid = torch.ones(3, 9, dtype=torch.bool)
    valid[1] = False
    valid[2, :4] = False
    for causal in _forms(subject):
        inputs = subject.draw(3, 9)
        out = subject.run(*inputs, _mask(subject, valid, causal))
        assert (out[1] == 0).all(), "a sample without any valid key is not exactly zero"
        if causal:
            assert (out[2, :, :4] == 0).all(), "rows before the first valid key are not zero"
        for name, gradient in zip("qkv", gradients(out, inputs), strict=True):
            assert gradient.isfinite().all(), f"gradient of {name} is not finite"
    if subject.spec.supports("dense_mask"):
        allowed = torch.ones(9, 9, dtype=torch.bool)
        allowed[4] = False
        inputs = subject.draw(3, 9)
        out = subject.run(*inputs, masks.dense(allowed))
        assert (out[:, :, 4] == 0).all(), "a row that a dense mask empties is not exactly zero"
        for name, gradient in zip("qkv", gradients(out, inputs), strict=True):
            assert gradient.isfinite().all(), f"gradient of {name} is not finite"


def _forms(subject: Subject) -> list[bool]:
    if subject.recurrent:
        return [True]
    return [False, True] if subject.spec.supports("causal") else [False]


def _mask(subject: Subject, valid: Tensor, causal: bool) -> Mask | None:
    keys = masks.keys(valid)
    return subject.causal(keys) if causal else keys


def _valid(side: str) -> Tensor:
    position = torch.arange(PADDED)
    lengths = torch.tensor(LENGTHS)[:, None]
    return position < lengths if side == "right" else position >= PADDED - lengths

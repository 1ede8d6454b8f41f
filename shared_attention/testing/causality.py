"""Checks that the past never depends on the future, and that streaming is the same."""

from __future__ import annotations

import torch
from torch import Tensor

from shared_attention import masks
from shared_attention.masks import Mask
from shared_attention.testing.subject import Subject, gradients
from shared_attention.testing.tolerances import assert_close


def check_prefix_consistency(subject: Subject) -> None:
    """Changing later positions changes no earlier output, and no gradient flows back."""
    subject.needs("causal")
    length = 80
    for seed in range(3):
        past = subject.draw(2, length, seed=seed)
        future = subject.draw(2, length, seed=seed + 100, grad=False)
        whole = subject.run(*past, subject.causal())
        for cut in (1, 17, 40, 79):
            changed = [
                torch.cat([x[:, :, :cut], 3 * y[:, :, cut:]], 2).detach()
                for x, y in zip(past, future, strict=True)
            ]
            out = subject.run(changed[0], changed[1], changed[2], subject.causal())
            what = f"output before position {cut} when later positions change"
            assert_close(out[:, :, :cut], whole[:, :, :cut], what)
        for name, gradient in zip("qkv", gradients(whole[:, :, :40], past), strict=True):
            leaked = gradient[:, :, 40:].abs().max()
            assert leaked == 0, f"output before position 40 has a gradient to later {name}"


def check_state(subject: Subject) -> None:
    """The whole at once, in chunks and step by step give the same, with padding too."""
    subject.needs("state")
    batch, length = 2, 37
    q, k, v = subject.draw(batch, length, grad=False)
    for valid in _padding(subject, batch, length):
        mask = None if valid is None else masks.keys(valid)
        whole = subject.run(q, k, v, subject.causal(mask))
        for sizes in ((37,), (16, 21), (1,) * 37, (20, *(1,) * 17)):
            out = _stream(subject, q, k, v, valid, sizes)
            assert_close(out, whole, f"streamed in {len(sizes)} parts against all at once")
    state = subject.advance(q[:, :, :9], k[:, :, :9], v[:, :, :9], subject.start(k, v))[1]
    rest = [x[:, :, 9:] for x in (q, k, v)]
    first = subject.advance(rest[0], rest[1], rest[2], state)[0]
    again = subject.advance(rest[0], rest[1], rest[2], state)[0]
    assert_close(again, first, "continuing twice from one state, which must not be written to")


def _padding(subject: Subject, batch: int, length: int) -> list[Tensor | None]:
    if not subject.spec.supports("key_padding"):
        return [None]
    return [None, torch.rand(batch, length, generator=torch.Generator().manual_seed(3)) > 0.3]


def _stream(
    subject: Subject,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    valid: Tensor | None,
    sizes: tuple[int, ...],
) -> Tensor:
    state, at, outs = subject.start(k, v), 0, []
    for size in sizes:
        own = slice(at, at + size)
        mask: Mask | None = None if valid is None else masks.keys(valid[:, own])
        out, state = subject.advance(q[:, :, own], k[:, :, own], v[:, :, own], state, mask)
        outs.append(out)
        at += size
    return torch.cat(outs, 2)

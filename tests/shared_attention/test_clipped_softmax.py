"""Clipped softmax beyond the conformance kit, and attention in blocks of rows."""

from __future__ import annotations

import math

import pytest
import torch

from shared_attention import attention, catalogue, masks
from shared_attention.primitives import attend_blocks as blocks
from shared_attention.primitives.attend import attend, softmax


def draw(length: int = 9, keys: int = 9, batch: int = 2):
    random = torch.Generator().manual_seed(length)
    q = torch.randn(batch, 4, length, 6, generator=random)
    k, v = torch.randn(2, batch, 2, keys, 6, generator=random).unbind(0)
    return tuple(x.requires_grad_() for x in (q, k, v))


def test_published_length_gives_the_published_formula():
    q, k, v = draw()
    probabilities = (q @ k.repeat_interleave(2, 1).mT / math.sqrt(6)).softmax(-1)
    low = -3.0 / 128
    weights = ((1.0 - low) * probabilities + low).clip(0, 1)
    out = attention(q, k, v, "clipped_softmax", alpha=3.0, length=128)
    torch.testing.assert_close(out, weights @ v.repeat_interleave(2, 1))


def test_nothing_clipped_is_softmax():
    torch.testing.assert_close(attention(*draw(), "clipped_softmax", gamma=0.0), attention(*draw()))


def test_even_attention_is_exactly_nothing_and_sharp_attention_everything():
    q, k, v = draw()
    out = attention(torch.zeros_like(q), k, v, "clipped_softmax")
    assert (out == 0).all()
    best = (q @ k.repeat_interleave(2, 1).mT).argmax(-1, keepdim=True)
    taken = v.repeat_interleave(2, 1).take_along_dim(best, 2)
    out = attention(1e4 * q, k, v, "clipped_softmax", zeta=1.03)
    torch.testing.assert_close(out, taken)


def test_padding_does_not_change_the_threshold():
    q, k, v = draw()
    valid = torch.arange(9).expand(2, -1) < 5
    out = attention(q, k, v, "clipped_softmax", masks.keys(valid))
    short = attention(q, k[:, :, :5], v[:, :, :5], "clipped_softmax")
    torch.testing.assert_close(out, short)


MASKS = {
    "none": None,
    "causal": masks.causal(),
    "causal and keys": masks.causal() & masks.keys(torch.arange(9) >= torch.tensor([[0], [5]])),
    "window": masks.window(2, 1),
    "prefix": masks.causal() | masks.prefix(torch.tensor([3, 1])),
}


@pytest.mark.parametrize("budget", [1, 20, 100, 400])
@pytest.mark.parametrize("length", [5, 9, 30])
@pytest.mark.parametrize("name", MASKS)
def test_blocks_of_any_size_give_the_whole_with_every_gradient(name, length, budget, monkeypatch):
    monkeypatch.setitem(blocks.BLOCK_SCORES, "cpu", budget)
    q, k, v = draw(length)
    mask = MASKS[name]
    dense = None if mask is None else mask.to_dense(length, 9)
    for shape in ((9,), (4, 1, 9), (2, 1, length, 1)):
        bias = torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
        out = blocks.attend_blocks(q, k, v, mask=mask, bias=bias, normaliser=softmax)
        whole = attend(q, k, v, mask=dense, bias=bias)[0]
        torch.testing.assert_close(out, whole)
        weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
        leaves = (q, k, v, bias)
        found = torch.autograd.grad(out, leaves, weight)
        for mine, theirs in zip(found, torch.autograd.grad(whole, leaves, weight), strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


def test_blocks_keep_no_matrix_of_scores():
    q, k, v = draw(2048, 2048, batch=1)
    kept = []

    def keep(x: torch.Tensor) -> torch.Tensor:
        kept.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        attention(q, k, v, "clipped_softmax")
    assert 0 < max(kept) <= q.numel()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": -1.0}, "alpha got -1.0, expected at least 0"),
        ({"gamma": 0.1}, "gamma got 0.1, expected at most 0"),
        ({"zeta": 0.9}, "zeta got 0.9, expected at least 1"),
        ({"length": 0}, "length got 0, expected at least 1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=f"clipped_softmax: option {message}"):
        attention(*draw(), "clipped_softmax", **options)


def test_weights_need_not_sum_to_one():
    assert catalogue()["clipped_softmax"].supports("weights")
    q, k, v = draw()
    total = attention(q, k, torch.ones_like(v), "clipped_softmax")
    assert (total < 1).any()

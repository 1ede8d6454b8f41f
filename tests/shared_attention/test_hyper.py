"""HyperAttention beyond the conformance kit: approximation, estimates, randomness, limits."""

from __future__ import annotations

import pytest
import torch

from shared_attention import UnsupportedError, attention, masks
from shared_attention.mechanisms.sorted_lsh import hash_codes
from shared_attention.references.hyper import reference_hyper
from shared_attention.testing import check_mechanism

SMALL = {"min_seq_len": 16, "block": 8, "samples": 8}
CHECKS = ("padding", "hidden keys", "prefix consistency", "empty rows", "batch slots", "randomness")


def draw(length: int, keys: int | None = None, heads: int = 2):
    random = torch.Generator().manual_seed(9)
    q = torch.randn(2, heads, length, 8, generator=random)
    k, v = torch.randn(2, 2, heads, keys or length, 8, generator=random).unbind(0)
    return q, k, v


@pytest.mark.parametrize("check", [*CHECKS, "export"])
def test_approximation_keeps_what_the_kit_asks_of_it(check):
    report = check_mechanism("hyper", options=SMALL, checks=(check,))
    assert report.ok, report


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("length", "keys"), [(65, 65), (64, 64), (20, 37)])
def test_approximation_agrees_with_the_reference_and_its_gradients(length, keys, padded, causal):
    if causal and length != keys:
        return
    inputs = [x.requires_grad_() for x in draw(length, keys)]
    mask = masks.causal() if causal else masks.window(None, None)
    if padded:
        valid = torch.rand(2, keys, generator=torch.Generator().manual_seed(1)) > 0.2
        mask = mask & masks.keys(valid)
    out = attention(*inputs, "hyper", mask, **SMALL)
    expected = reference_hyper(*inputs, mask=mask, **SMALL)
    torch.testing.assert_close(out, expected.float())
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
    mine = torch.autograd.grad((out * weight).sum(), inputs)
    theirs = torch.autograd.grad((expected * weight).sum(), inputs)
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


def test_more_samples_bring_it_nearer_to_softmax():
    q, k, v = draw(120)
    exact = attention(q, k, v)
    errors = []
    for samples in (4, 64, 4096):
        options = {"min_seq_len": 16, "block": 8, "samples": samples}
        errors.append(float((attention(q, k, v, "hyper", **options) - exact).norm() / exact.norm()))
    assert errors[2] < 0.2 < errors[1] < errors[0]


def test_seeds_and_generators_choose_the_draw():
    q, k, v = draw(60)
    out = attention(q, k, v, "hyper", **SMALL)
    assert not torch.allclose(out, attention(q, k, v, "hyper", seed=1, **SMALL))
    drawn = [
        attention(q, k, v, "hyper", generator=torch.Generator().manual_seed(s), **SMALL)
        for s in (1, 1, 2)
    ]
    assert torch.equal(drawn[0], drawn[1]) and not torch.allclose(drawn[0], drawn[2])


def test_it_is_exact_below_min_seq_len_and_where_one_block_holds_all_keys():
    q, k, v = draw(60)
    for mask in (None, masks.causal()):
        exact = attention(q, k, v, mask=mask)
        torch.testing.assert_close(attention(q, k, v, "hyper", mask), exact)
        wide = attention(q, k, v, "hyper", mask, min_seq_len=16, block=64)
        torch.testing.assert_close(wide, exact)


def test_neighbouring_codes_differ_in_one_sign():
    signs = torch.tensor(
        [[1.0 if code >> bit & 1 else -1.0 for bit in range(3)] for code in range(8)]
    )
    order = hash_codes(signs, torch.eye(3)).argsort()
    changes = (signs[order].diff(dim=0) != 0).sum(-1)
    assert changes.tolist() == [1] * 7


def test_refusals_say_what_and_why():
    q, k, v = draw(5, 9)
    with pytest.raises(UnsupportedError, match="hyper: a causal mask needs as many queries as"):
        attention(q, k, v, "hyper", masks.causal())
    with pytest.raises(ValueError, match="hyper: option bits got 17, expected 1 to 16"):
        attention(q, k, v, "hyper", bits=17)

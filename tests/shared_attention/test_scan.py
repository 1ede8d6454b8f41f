"""Attention as an RNN beyond the conformance kit: hard scores, the operator, its state."""

from __future__ import annotations

import pytest
import torch

from shared_attention import UnsupportedError, attention, masks
from shared_attention.mechanisms.scan import ScanAttention, scan_attention
from shared_attention.primitives.softmax_scan import CHUNK, SoftmaxSums, combine
from shared_attention.references.scan import reference_scan


def softmax_of_one_query(query, k, v):
    """The library's own causal attention in float64, with the query repeated."""
    q = query.double()[None, :, None].expand(k.shape[0], -1, k.shape[2], -1)
    return torch.nn.functional.scaled_dot_product_attention(
        q, k.double(), v.double(), is_causal=True
    )


def test_one_sample_whose_heads_lie_beside_each_other():
    query = torch.randn(3, 8)
    k, v = torch.randn(2, 1, 4 * CHUNK, 3, 8).transpose(2, 3)
    expected = scan_attention(query, k.contiguous(), v.contiguous())
    torch.testing.assert_close(scan_attention(query, k, v), expected)


@pytest.mark.parametrize("length", [1, 15, 16, 17, 255, 257, 4100])
def test_equals_softmax_attention_of_a_repeated_query(length):
    random = torch.Generator().manual_seed(length)
    query = torch.randn(2, 8, generator=random)
    k, v = torch.randn(2, 1, 2, length, 8, generator=random).unbind(0)
    out = scan_attention(query, k, v)
    torch.testing.assert_close(
        out.double(), softmax_of_one_query(query, k, v), atol=1e-6, rtol=1e-6
    )


@pytest.mark.parametrize("direction", [1, -1], ids=["growing", "shrinking"])
@pytest.mark.parametrize("noise", [0, 30])
def test_scores_that_run_over_1e4(direction, noise):
    random = torch.Generator().manual_seed(0)
    scores = direction * torch.arange(2600.0) * 8
    scores += torch.randint(-noise, noise + 1, (2600,), generator=random)
    k, v = scores[None, None, :, None], torch.randn(1, 1, 2600, 3, generator=random)
    k.requires_grad_()
    out = scan_attention(torch.ones(1, 1), k, v, scale=1.0)
    expected = reference_scan(torch.ones(1, 1), k, v, scale=1.0)
    torch.testing.assert_close(out.double(), expected, atol=1e-6, rtol=1e-6)
    assert torch.autograd.grad(out.sum(), k)[0].isfinite().all()


def test_the_operator_is_associative_and_has_a_neutral_element():
    random = torch.Generator().manual_seed(0)

    def sums():
        return SoftmaxSums(
            50 * torch.randn(4, generator=random, dtype=torch.float64),
            torch.rand(4, generator=random, dtype=torch.float64),
            torch.randn(4, 3, generator=random, dtype=torch.float64),
        )

    a, b, c = sums(), sums(), sums()
    left, right = combine(combine(a, b), c), combine(a, combine(b, c))
    nothing = SoftmaxSums(torch.full_like(a.m, -torch.inf), 0 * a.w, 0 * a.u)
    for one, other in ((left, right), (combine(nothing, a), a), (combine(a, nothing), a)):
        for x, y in zip(one, other, strict=True):
            torch.testing.assert_close(x, y, atol=1e-12, rtol=1e-12)
    assert (combine(nothing, nothing).output() == 0).all()


def test_the_state_keeps_its_size_and_holds_no_history():
    module = ScanAttention(2, 8)
    k = torch.randn(3, 2, 500, 8)
    start = module.init_state(3)
    state = module.prefill(k, k, start)[1]
    for before, after in zip(start, state, strict=True):
        assert before.shape == after.shape
        assert after.untyped_storage().nbytes() == before.untyped_storage().nbytes()


def test_a_half_precision_stream_keeps_a_float32_state():
    module = ScanAttention(2, 8).to(torch.bfloat16)
    k = torch.randn(1, 2, 5, 8, dtype=torch.bfloat16)
    out, state = module.prefill(k, k, module.init_state(1))
    assert out.dtype == torch.bfloat16
    assert {x.dtype for x in state} == {torch.float32}


def test_refusals_say_what_and_why():
    k = torch.randn(1, 2, 9, 8)
    with pytest.raises(ValueError, match=r"query has shape \[2, 7\], expected \[heads, dim\]"):
        scan_attention(torch.randn(2, 7), k, k)
    with pytest.raises(UnsupportedError, match="scan cannot honour a window mask"):
        scan_attention(torch.randn(2, 8), k, k, mask=masks.window(2, 0))
    with pytest.raises(UnsupportedError, match="v has 1 heads, expected the 2 of k"):
        scan_attention(torch.randn(2, 8), k, k[:, :1])
    with pytest.raises(UnsupportedError, match="scan has parameters"):
        attention(k, k, k, "scan")


def test_a_half_life_halves_what_is_that_far_back():
    torch.manual_seed(0)
    query, k, v = torch.randn(2, 8), torch.randn(3, 2, 40, 8), torch.randn(3, 2, 40, 8)
    out = scan_attention(query, k, v, half_life=5.0)
    scores = (k @ (query / 8**0.5)[..., None]).squeeze(-1)
    age = torch.arange(40.0)[:, None] - torch.arange(40.0)
    weights = (scores.exp()[:, :, None] * 0.5 ** (age / 5)).tril()
    expected = weights @ v / weights.sum(-1, keepdim=True)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


def test_a_stream_with_a_half_life_is_the_whole_and_its_state_does_not_drift():
    torch.manual_seed(0)
    module = ScanAttention(2, 8, half_life=3.0)
    k, v = torch.randn(1, 2, 60, 8), torch.randn(1, 2, 60, 8)
    whole, state = module(k, v), module.init_state(1)
    pieces = []
    for piece in (slice(0, 1), slice(1, 20), slice(20, 21), slice(21, 60)):
        out, state = module.prefill(k[:, :, piece], v[:, :, piece], state)
        pieces.append(out)
    torch.testing.assert_close(torch.cat(pieces, 2), whole)
    assert state.m.abs().max() < 10
    with pytest.raises(ValueError, match=r"half_life got 0\.0, expected more than 0"):
        ScanAttention(2, 8, half_life=0.0)

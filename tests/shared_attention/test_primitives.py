"""Primitives against their definitions in float64."""

from __future__ import annotations

import pytest
import torch

from shared_attention.primitives import topk
from shared_attention.primitives.attend import attend, log_sum_exp
from shared_attention.primitives.linear_scan import linear_scan
from shared_attention.primitives.merge import merge
from shared_attention.primitives.segment_pool import segment_pool


def draw(*shape: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=random, dtype=torch.float64)


def test_attend_with_another_normaliser():
    q, k, v = draw(1, 2, 3, 4), draw(1, 2, 5, 4), draw(1, 2, 5, 6)
    out, weights, scores = attend(q, k, v, normaliser=torch.sigmoid, scale=2.0)
    torch.testing.assert_close(scores, 2 * q @ k.mT)
    torch.testing.assert_close(out, torch.sigmoid(2 * q @ k.mT) @ v)
    torch.testing.assert_close(weights, torch.sigmoid(scores))


def test_attend_gradients_with_an_empty_row():
    mask = torch.ones(1, 1, 3, 5, dtype=torch.bool)
    mask[..., 1, :] = False
    inputs = tuple(
        x.requires_grad_() for x in (draw(1, 2, 3, 4), draw(1, 1, 5, 4), draw(1, 2, 5, 2))
    )

    def both(q, k, v):
        out, _, scores = attend(q, k, v, mask=mask)
        return out, log_sum_exp(scores)[:, :, ::2]

    assert torch.autograd.gradcheck(both, inputs)


@pytest.mark.parametrize("cut", [0, 2, 5])
def test_merge_equals_attending_at_once(cut):
    q, k, v = draw(1, 2, 3, 4), draw(1, 2, 5, 4) * 30, draw(1, 2, 5, 6)

    def part(keys: slice):
        mask = torch.zeros(1, 1, 1, 5, dtype=torch.bool)
        mask[..., keys] = True
        out, _, scores = attend(q, k, v, mask=mask)
        return out, log_sum_exp(scores)

    out, lse = merge(*part(slice(0, cut)), *part(slice(cut, 5)))
    whole, whole_lse = part(slice(0, 5))
    torch.testing.assert_close(out, whole)
    torch.testing.assert_close(lse, whole_lse)


def test_merge_of_nothing_is_nothing():
    out, lse = torch.zeros(2, 3), torch.full((2,), -torch.inf)
    merged, total = merge(out, lse, out, lse)
    assert torch.equal(merged, out) and torch.equal(total, lse)


@pytest.mark.parametrize("length", [1, 3, 4, 5, 9])
@pytest.mark.parametrize("continued", [False, True])
def test_linear_scan_equals_the_running_sum(length, continued):
    q, k, v = draw(2, 2, length, 3), draw(2, 2, length, 3), draw(2, 2, length, 5)
    state = draw(2, 2, 3, 5) if continued else None
    out, last = linear_scan(q, k, v, state, chunk=4)
    sums = (k[..., :, None] * v[..., None, :]).cumsum(2)
    if state is not None:
        sums = sums + state[:, :, None]
    torch.testing.assert_close(out, (q[..., None] * sums).sum(-2))
    torch.testing.assert_close(last, sums[:, :, -1])


def test_linear_scan_keeps_sums_of_half_precision_in_float32():
    ones = torch.ones(1, 1, 4096, 1, dtype=torch.float16)
    out, state = linear_scan(ones, ones, ones)
    assert out.dtype == state.dtype == torch.float32
    assert out[0, 0, -1, 0] == 4096 == state.item()


@pytest.mark.parametrize("reduce", ["mean", "sum", "amax"])
def test_segment_pool_equals_a_loop_and_never_reads_outsiders(reduce):
    x = draw(2, 3, 6, 4)
    segments = torch.tensor([[0, 0, 2, 2, 2, -1], [1, 0, 1, -1, 0, 1]])
    x[0, :, 5] = torch.nan
    pooled = segment_pool(x, segments, 4, reduce=reduce)
    for b in range(2):
        for s in range(4):
            members = x[b, :, segments[b] == s]
            if members.shape[1] == 0:
                expected = torch.zeros(3, 4, dtype=x.dtype)
            else:
                expected = getattr(members, reduce)(1)
            torch.testing.assert_close(pooled[b, :, s], expected)


def test_topk_selects_in_order_and_leaves_invalid_positions():
    scores = torch.tensor([[[0.1, 9.0, 3.0, 8.0]]])
    valid = torch.tensor([[True, False, True, True]])
    assert topk.select(scores, 2).tolist() == [[[1, 3]]]
    assert topk.select(scores, 2, valid=valid).tolist() == [[[2, 3]]]
    x = draw(1, 1, 4, 2)
    assert torch.equal(topk.gather(x, torch.tensor([[[1, 3]]])), x[:, :, [1, 3]])

"""Landmark attention beyond the conformance kit: grouping, retrieval, what landmarks hide."""

from __future__ import annotations

import pytest
import torch

from shared_attention import attention, masks
from shared_attention.explain import attention_matrix
from shared_attention.references.landmark import reference_landmark
from shared_attention.testing import check_mechanism

CHECKS = ("state", "padding", "hidden keys", "prefix consistency")


def draw(length: int):
    return torch.randn(3, 2, 2, length, 8, generator=torch.Generator().manual_seed(3)).unbind(0)


@pytest.mark.parametrize("top_k", [None, 2])
@pytest.mark.parametrize("check", CHECKS)
def test_many_blocks_with_and_without_retrieval(check, top_k):
    report = check_mechanism("landmark", options={"block": 5, "top_k": top_k}, checks=(check,))
    assert report.ok, report


@pytest.mark.parametrize("top_k", [None, 2])
@pytest.mark.parametrize("causal", [False, True])
def test_many_blocks_agree_with_the_reference(causal, top_k):
    q, k, v = draw(38)
    mask = masks.keys(torch.rand(2, 38, generator=torch.Generator().manual_seed(1)) > 0.2)
    mask = mask & masks.causal() if causal else mask
    out = attention(q, k, v, "landmark", mask, block=5, top_k=top_k)
    expected = reference_landmark(q, k, v, mask=mask, block=5, top_k=top_k)
    torch.testing.assert_close(out, expected.float())


def test_a_block_gets_the_weight_of_its_landmark_in_the_softmax_of_the_own_block():
    q, k, _ = draw(23)
    weights = attention_matrix("landmark", q, k, mask=masks.causal(), block=5)
    scores = torch.einsum("bhd,bhsd->bhs", q[:, :, 17], k) / 8**0.5
    compete = scores[..., [4, 9, 14, 15, 16, 17]].softmax(-1)
    sums = weights[:, :, 17, :15].unflatten(-1, (3, 5)).sum(-1)
    torch.testing.assert_close(torch.cat([sums, weights[:, :, 17, 15:18]], -1), compete)
    inside = weights[:, :, 17, 5:9] / compete[..., 1:2]
    torch.testing.assert_close(inside, scores[..., 5:9].softmax(-1))


def test_values_of_landmarks_are_never_read():
    q, k, v = draw(23)
    poisoned = v.clone()
    poisoned[:, :, 4::5] = float("nan")
    out = attention(q, k, v, "landmark", masks.causal(), block=5)
    assert torch.equal(attention(q, k, poisoned, "landmark", masks.causal(), block=5), out)


def test_one_block_is_softmax_and_retrieving_every_block_changes_nothing():
    q, k, v = draw(60)
    out = attention(q, k, v, "landmark", masks.causal(), block=64)
    torch.testing.assert_close(out, attention(q, k, v, mask=masks.causal()))
    out = attention(q, k, v, "landmark", masks.causal(), block=5, top_k=11)
    torch.testing.assert_close(out, attention(q, k, v, "landmark", masks.causal(), block=5))
    assert not torch.allclose(out, attention(q, k, v, "landmark", masks.causal(), block=5, top_k=1))


@pytest.mark.parametrize(("name", "value"), [("block", 1), ("top_k", 0)])
def test_options_out_of_range_are_named(name, value):
    q, k, v = draw(9)
    with pytest.raises(ValueError, match=f"landmark: option {name} got {value}, expected at"):
        attention(q, k, v, "landmark", **{name: value})

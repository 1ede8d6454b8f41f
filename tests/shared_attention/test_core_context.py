"""Core context aware attention beyond the conformance kit: windows, pooling of the input."""

from __future__ import annotations

import pytest
import torch

from shared_attention import attention, catalogue, masks
from shared_attention.explain import attention_matrix
from shared_attention.references.core_context import reference_core_context
from shared_attention.testing import check_mechanism

SMALL = {"group": 4, "local": 6}
CHECKS = ("gradients", "padding", "hidden keys", "prefix consistency", "state", "empty rows")


def draw(length: int):
    return torch.randn(3, 2, 2, length, 8, generator=torch.Generator().manual_seed(7)).unbind(0)


@pytest.mark.parametrize("check", CHECKS)
def test_many_groups(check):
    report = check_mechanism("core_context", options=SMALL, checks=(check,))
    assert report.ok, report


@pytest.mark.parametrize("length", [4, 37, 64])
@pytest.mark.parametrize("causal", [False, True])
def test_many_groups_agree_with_the_reference(causal, length):
    q, k, v = draw(length)
    mask = masks.keys(torch.rand(2, length, generator=torch.Generator().manual_seed(1)) > 0.2)
    mask = mask & masks.causal() if causal else mask
    out = attention(q, k, v, "core_context", mask, **SMALL)
    expected = reference_core_context(q, k, v, mask=mask, **SMALL)
    torch.testing.assert_close(out, expected.float())


def test_the_window_is_local_plus_the_remainder_of_the_positions_seen():
    q, k, _ = draw(40)
    weights = attention_matrix("core_context", q, k, mask=masks.causal(), **SMALL)
    for i in (3, 6, 20, 21, 39):
        seen = i + 1
        window = min(seen, 6 + (seen - 6) % 4) if seen > 6 else seen
        near = weights[:, :, i, seen - window : seen]
        plain = torch.einsum("bhd,bhsd->bhs", q[:, :, i], k[:, :, seen - window : seen]) / 8**0.5
        torch.testing.assert_close(near / near.sum(-1, keepdim=True), plain.softmax(-1))


def test_pooling_the_input_before_the_projection_is_the_same():
    random = torch.Generator().manual_seed(2)
    x = torch.randn(4, 8, generator=random)
    project_q, project_k = torch.randn(2, 8, 8, generator=random)
    weights = ((x @ project_q)[-1] @ (x @ project_k).T / 8**0.5).softmax(0)
    torch.testing.assert_close((weights @ x) @ project_k, weights @ (x @ project_k))


def test_all_local_and_groups_of_one_are_softmax():
    q, k, v = draw(40)
    expected = attention(q, k, v, mask=masks.causal())
    for options in ({"local": 40}, {"local": 3, "group": 1}):
        out = attention(q, k, v, "core_context", masks.causal(), **options)
        torch.testing.assert_close(out, expected)


def test_options_out_of_range_are_named():
    q, k, v = draw(9)
    with pytest.raises(ValueError, match="core_context: option group got 0, expected at least 1"):
        attention(q, k, v, "core_context", group=0)


def test_a_stream_keeps_near_positions_and_one_core_token_for_each_group():
    module = catalogue()["core_context"].build(num_heads=2, head_dim=8, **SMALL)
    q, k, v = draw(41)
    state = module.init_state(2, 2, 8, 8)
    for at in range(41):
        own = slice(at, at + 1)
        state = module.step(q[:, :, own], k[:, :, own], v[:, :, own], state)[1]
        assert state.k.shape[2] == state.v.shape[2] == 6 + 4 - 1
        assert state.cores[0].shape[2] == (at + 1) // 4

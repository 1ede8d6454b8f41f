"""Gated linear and Liger attention beyond the conformance kit: equations, limits, padding."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from shared_attention import UnsupportedError, attention, masks
from shared_attention.mechanisms.gated_linear import GatedLinearAttention, gated_linear_attention
from shared_attention.mechanisms.liger import empty_liger, liger_attention, prefill_liger


def draw(length: int, batch: int = 2):
    random = torch.Generator().manual_seed(length)
    return torch.randn(3, batch, 2, length, 8, generator=random).unbind(0)


def test_liger_follows_the_equations_of_the_official_code():
    q, k, v = draw(150)
    gates = (F.logsigmoid(k) / 16).double().cumsum(2)
    between = (gates[:, :, :, None] - gates[:, :, None]).exp()
    features = q.softmax(-1).double(), k.softmax(-1).double()
    weights = torch.einsum("bhtd,bhtjd,bhjd->bhtj", features[0], between, features[1]).tril()
    far = weights @ v.double()
    near = attention(q, k, v, "softmax", masks.window(64, 0)).double()
    out = liger_attention(q, k, v, mask=masks.causal())
    torch.testing.assert_close(out.double(), far / 2 + near / 2, atol=1e-5, rtol=1e-5)


def test_one_decay_per_head_is_one_decay_for_all_its_channels():
    q, k, v = draw(70)
    log_decay = F.logsigmoid(k[..., :1])
    out, state = gated_linear_attention(q, k, v, log_decay)
    wide, other = gated_linear_attention(q, k, v, log_decay.expand_as(k))
    torch.testing.assert_close(out, wide)
    torch.testing.assert_close(state, other)


def test_padding_does_not_make_the_memory_decay():
    q, k, v = draw(90, batch=1)
    valid = torch.ones(1, 90, dtype=torch.bool)
    valid[:, 10:80] = False
    memory = torch.randn(1, 2, 8, 8)
    log_decay = torch.full_like(k, -3.0)
    kept = [x[:, :, valid[0]] for x in (q, k, v, log_decay)]
    after = gated_linear_attention(q, k, v, log_decay, memory, valid=valid)[1]
    torch.testing.assert_close(after, gated_linear_attention(*kept, memory)[1])


def test_the_state_of_liger_does_not_grow():
    q, k, v = draw(500)
    state = prefill_liger(q, k, v, empty_liger(2, 2, 8, 8, window=16), window=16)[1]
    assert state.memory.shape == (2, 2, 8, 8)
    assert state.recent.k.shape[2] == state.recent.v.shape[2] == 16


def test_gates_of_a_large_normaliser_forget_nothing():
    q, k, v = draw(80)
    module = GatedLinearAttention(2, 8, normaliser=1e9)
    expected = (q @ k.mT).tril() @ v / 8**0.5
    torch.testing.assert_close(module(q, k, v, masks.causal()), expected, atol=1e-4, rtol=1e-4)


def test_refusals_say_what_and_why():
    q, k, v = draw(9)
    with pytest.raises(UnsupportedError, match="liger has a causal form only"):
        attention(q, k, v, "liger")
    with pytest.raises(UnsupportedError, match="gated_linear has a causal form only"):
        GatedLinearAttention(2, 8)(q, k, v, masks.keys(torch.ones(2, 9, dtype=torch.bool)))
    with pytest.raises(ValueError, match="option window got -1"):
        attention(q, k, v, "liger", masks.causal(), window=-1)
    with pytest.raises(ValueError, match="option rank got 0"):
        GatedLinearAttention(2, 8, rank=0)
    with pytest.raises(ValueError, match=r"prefill: mask got Causal, expected masks\.keys"):
        prefill_liger(q, k, v, empty_liger(2, 2, 8, 8), mask=masks.causal())

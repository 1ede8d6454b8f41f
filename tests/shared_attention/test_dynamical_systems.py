"""Attention, state space models and recurrent networks are one recurrence, `decayed_scan`.

Sieber et al., Understanding the differences in foundation models, NeurIPS 2024 (arXiv 2405.15731),
write all of them as h_t = Λ_t h_{t-1} + B_t u_t, y_t = C_t h_t.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from shared_attention import attention, masks
from shared_attention.mechanisms.gated_linear import gated_linear_attention
from shared_attention.mechanisms.scan import scan_attention
from shared_attention.primitives.decayed_scan import decayed_scan
from shared_attention.primitives.linear_scan import linear_scan


@pytest.fixture
def draw():
    random = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=random, dtype=torch.float64)


def one_by_one(q, k, v, log_decay, state):
    outs = []
    for t in range(q.shape[2]):
        state = log_decay[:, :, t].exp()[..., None] * state
        state = state + k[:, :, t, :, None] * v[:, :, t, None]
        outs.append((q[:, :, t, None] @ state).squeeze(2))
    return torch.stack(outs, 2), state


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 150])
@pytest.mark.parametrize("strength", [0.1, 5.0, 1e4])
@pytest.mark.parametrize("width", [1, 6], ids=["per head", "per channel"])
def test_any_decay_in_chunks_is_the_recurrence(draw, length, strength, width):
    q, k, v = draw(3, 2, 2, length, 6).unbind(0)
    log_decay = -strength * draw(2, 2, length, width).square()
    state = draw(2, 2, 6, 6)
    expected, last = one_by_one(q, k, v, log_decay.expand_as(k), state)
    out, after = decayed_scan(q, k, v, log_decay, state)
    torch.testing.assert_close(out, expected, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(after, last, atol=1e-12, rtol=1e-12)
    single = decayed_scan(*(x.float() for x in (q, k, v, log_decay, state)))[0]
    torch.testing.assert_close(single.double(), expected, atol=1e-5, rtol=1e-5)


def test_weak_decays_behind_complete_forgetting_keep_their_precision(draw):
    q, k, v = (x.float() for x in draw(3, 1, 1, 60, 4).unbind(0))
    log_decay = torch.full((1, 1, 60, 4), -1e-3)
    log_decay[:, :, 10] = -torch.inf
    log_decay.requires_grad_()
    out = decayed_scan(q, k, v, log_decay)[0]
    fresh = decayed_scan(q[:, :, 10:], k[:, :, 10:], v[:, :, 10:], log_decay[:, :, 10:])[0]
    torch.testing.assert_close(out[:, :, 10:], fresh, atol=1e-5, rtol=1e-5)
    assert torch.autograd.grad(out.sum(), log_decay)[0].isfinite().all()


def test_linear_attention_does_not_decay(draw):
    q, k, v = draw(3, 2, 3, 70, 6).unbind(0)
    out, state = decayed_scan(q, k, v, torch.zeros_like(k))
    plain, sums = linear_scan(q, k, v)
    torch.testing.assert_close(out, plain)
    torch.testing.assert_close(state, sums)
    features = [nn.functional.elu(x) + 1 for x in (q, k)]
    both = torch.cat([v, torch.ones_like(v[..., :1])], -1)
    sums = decayed_scan(*features, both, torch.zeros_like(k))[0]
    expected = attention(q, k, v, "linear", masks.causal())
    torch.testing.assert_close(sums[..., :-1] / sums[..., -1:], expected)


def test_gated_linear_attention_weighs_by_the_decay_in_between(draw):
    q, k, v = draw(3, 2, 3, 40, 6).unbind(0)
    log_decay = nn.functional.logsigmoid(draw(2, 3, 40, 6))
    total = log_decay.cumsum(2)
    between = (total[:, :, :, None] - total[:, :, None]).exp()
    weights = torch.einsum("bhtd,bhtjd,bhjd->bhtj", q, between, k).tril() / math.sqrt(6)
    out, _ = gated_linear_attention(q, k, v, log_decay)
    torch.testing.assert_close(out, weights @ v)


def test_selective_state_space_models_have_a_head_per_channel(draw):
    """S6 (Mamba): h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t x_t, y_t = C_t h_t, for each channel."""
    batch, length, channels, states = 2, 50, 3, 4
    a = -draw(channels, states).exp()
    step = nn.functional.softplus(draw(batch, length, channels))
    b, c = draw(2, batch, length, states).unbind(0)
    x = draw(batch, length, channels)
    hidden, outs = x.new_zeros(batch, channels, states), []
    for t in range(length):
        hidden = (step[:, t, :, None] * a).exp() * hidden
        hidden = hidden + (step[:, t] * x[:, t])[..., None] * b[:, t, None]
        outs.append((hidden * c[:, t, None]).sum(-1))
    q, k = (y[:, None].expand(-1, channels, -1, -1) for y in (c, b))
    v = (step * x).mT[..., None]
    out, state = decayed_scan(q, k, v, step.mT[..., None] * a[:, None])
    torch.testing.assert_close(out.squeeze(-1).mT, torch.stack(outs, 1))
    torch.testing.assert_close(state.squeeze(-1), hidden)


def test_state_space_duality_is_a_decayed_mask_on_linear_attention(draw):
    """Mamba-2: one decay per head and step; y = (L ∘ C Bᵀ) x with L_tj = Π a between j and t."""
    q, k, v = draw(3, 2, 3, 40, 6).unbind(0)
    log_decay = -draw(2, 3, 40, 1).exp()
    total = log_decay.cumsum(2)
    mask = (total - total.mT).exp().tril()
    out, _ = decayed_scan(q, k, v, log_decay)
    torch.testing.assert_close(out, (mask * (q @ k.mT)) @ v)


def test_softmax_of_a_constant_query_forgets_by_its_running_maximum(draw):
    """Aaren: u_t = exp(m_{t-1} - m_t) u_{t-1} + exp(s_t - m_t) v_t, out = u_t / w_t."""
    query, (k, v) = draw(2, 6), draw(2, 1, 2, 90, 6).unbind(0)
    scores = 30 * torch.einsum("hd,bhtd->bht", query, k) / math.sqrt(6)
    top = scores.cummax(-1).values
    log_decay = nn.functional.pad(top[..., :-1] - top[..., 1:], (1, 0))[..., None]
    written = (scores - top).exp()[..., None]
    both = torch.cat([v, torch.ones_like(v[..., :1])], -1)
    sums, _ = decayed_scan(torch.ones_like(written), written, both, log_decay)
    expected = scan_attention(30 * query, k, v)
    torch.testing.assert_close(sums[..., :-1] / sums[..., -1:], expected)


def test_gated_recurrent_networks_have_one_state_per_channel(draw):
    """QRNN and qLSTM: c_t = f_t c_{t-1} + i_t z_t, y_t = o_t c_t, gates from the input alone."""
    forget, write, read = draw(3, 2, 70, 5).sigmoid().unbind(0)
    candidate = draw(2, 70, 5).tanh()
    cell, outs = torch.zeros(2, 5, dtype=torch.float64), []
    for t in range(70):
        cell = forget[:, t] * cell + write[:, t] * candidate[:, t]
        outs.append(read[:, t] * cell)
    heads = [x.mT[..., None] for x in (read, write, candidate, forget.log())]
    out, _ = decayed_scan(*heads)
    torch.testing.assert_close(out.squeeze(-1).mT, torch.stack(outs, 1))


def test_softmax_attention_is_approached_by_taylor_features(draw):
    """Separable approximations of exp turn softmax attention into the recurrence."""
    q, k, v = draw(3, 1, 2, 50, 8).unbind(0)
    errors = []
    for size in (0.5, 0.25, 0.125):
        exact = attention(size * q, size * k, v, "softmax", masks.causal())
        errors.append(
            (attention(size * q, size * k, v, "based", masks.causal()) - exact).abs().max()
        )
    assert errors[1] < errors[0] / 20 and errors[2] < errors[1] / 20

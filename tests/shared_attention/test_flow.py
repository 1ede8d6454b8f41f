"""Flow-Attention beyond the conformance kit: published formulas, conservation, streaming."""

from __future__ import annotations

import pytest
import torch

from shared_attention import UnsupportedError, masks
from shared_attention.mechanisms.flow import empty_flow, flow_attention, prefill_flow


def draw(length: int, keys: int | None = None):
    random = torch.Generator().manual_seed(length)
    q = torch.randn(2, 2, length, 6, generator=random)
    k, v = torch.randn(2, 2, 2, keys or length, 6, generator=random).unbind(0)
    return q, k, v


def test_causal_form_follows_the_official_one_with_its_matrix_per_position():
    q, k, v = draw(40)
    eps, n = 1e-6, torch.arange(1.0, 41.0)
    sinks, sources = q.sigmoid(), k.sigmoid()

    def flow(side, total):
        return torch.einsum("bhld,bhld->bhl", side + eps, total.cumsum(2) + eps)

    incoming, outgoing = n / flow(sinks, sources), n / flow(sources, sinks)
    in_refined = flow(sinks, sources * outgoing[..., None]) / n
    out_refined = (flow(sources, sinks * incoming[..., None]) / n).clamp(-1, 1).exp()
    competition = out_refined / out_refined.cumsum(-1) * n
    matrices = torch.einsum("bhld,bhlm->bhldm", sources, v * competition[..., None]).cumsum(2)
    query = sinks * (incoming / n)[..., None]
    out = torch.einsum("bhld,bhldm->bhlm", query, matrices) * in_refined.sigmoid()[..., None]
    torch.testing.assert_close(flow_attention(q, k, v, mask=masks.causal()), out)


def test_equal_sources_pass_all_flow_to_each_sink_up_to_its_allocation():
    q, k, _ = draw(12, 20)
    out = flow_attention(q, torch.zeros_like(k), torch.ones(2, 2, 20, 1))
    wanted = q.sigmoid().sum(-1, keepdim=True)
    allocation = torch.sigmoid(wanted / wanted.mean(2, keepdim=True))
    torch.testing.assert_close(out, allocation, atol=1e-5, rtol=0)


def test_cross_attention_of_equal_lengths_can_say_so():
    q, k, v = draw(9)
    valid = torch.arange(9).expand(2, -1) < 3
    out = flow_attention(q, k, v, mask=masks.keys(valid), self_attention=False)
    torch.testing.assert_close(out, flow_attention(q, k[:, :, :3], v[:, :, :3]))
    assert not torch.allclose(out, flow_attention(q, k, v, mask=masks.keys(valid)))


def test_the_state_keeps_its_size_and_holds_no_history():
    q, k, v = draw(300)
    state = prefill_flow(q, k, v, empty_flow(2, 2, 6, 6))[1]
    for name, before, after in zip(state._fields, empty_flow(2, 2, 6, 6), state, strict=True):
        assert before.shape == after.shape, name
        assert after.untyped_storage().nbytes() <= 2 * 2 * 6 * 6 * 8 * 4, name


def test_refusals_say_what_and_why():
    q, k, v = draw(5, 9)
    with pytest.raises(UnsupportedError, match="flow: a causal mask needs as many queries as keys"):
        flow_attention(q, k, v, mask=masks.causal())
    with pytest.raises(ValueError, match=r"mask got Causal, expected masks\.keys"):
        prefill_flow(k, k, v, empty_flow(2, 2, 6, 6), mask=masks.causal())

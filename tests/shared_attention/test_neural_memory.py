"""Titans' neural memory beyond the conformance kit: what it learns, its chunks, its limits."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from shared_attention import UnsupportedError, masks
from shared_attention.mechanisms.neural_memory import NeuralMemory
from shared_attention.primitives.decayed_scan import decayed_scan


def build(**options) -> NeuralMemory:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return NeuralMemory(2, 8, **options)


def draw(length: int):
    random = torch.Generator().manual_seed(length)
    return torch.randn(3, 2, 2, length, 8, generator=random).unbind(0)


def fix_gates(module: NeuralMemory, *logits: float) -> None:
    with torch.no_grad():
        module.gates.zero_()
        module.gate_bias.copy_(torch.tensor(logits))


def test_one_chunk_of_a_linear_memory_without_momentum_is_gated_linear_attention():
    q, k, v = draw(40)
    module = build(depth=1, chunk=64, max_step=0.5)
    fix_gates(module, 0.0, -1e4, -2.0)
    with torch.no_grad():
        module.initial[0].zero_()
    unit = nn.functional.normalize(k, dim=-1)
    kept = torch.tensor(-2.0).neg().sigmoid().log().expand(2, 2, 40, 1)
    expected, _ = decayed_scan(nn.functional.normalize(q, dim=-1), 0.5 * unit, v, kept)
    torch.testing.assert_close(module(q, k, v, masks.causal()), expected, atol=1e-5, rtol=1e-5)


def test_chunks_of_one_follow_the_delta_rule():
    q, k, v = draw(30)
    module = build(depth=1, chunk=1, max_step=0.5)
    fix_gates(module, 0.0, -1e4, -1e4)
    memory = module.initial[0].detach().expand(2, -1, -1, -1)
    q_unit, k_unit = (nn.functional.normalize(x, dim=-1) for x in (q, k))
    for t in range(30):
        key = k_unit[:, :, t : t + 1]
        memory = memory - 0.5 * key.mT @ (key @ memory - v[:, :, t : t + 1])
    out = module(q, k, v, masks.causal())
    torch.testing.assert_close(out[:, :, -1:], q_unit[:, :, -1:] @ memory, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("depth", [1, 2])
def test_what_repeats_is_remembered(depth):
    k = torch.linalg.qr(torch.randn(2, 2, 8, 8)).Q.repeat(1, 1, 40, 1)
    v = torch.randn(2, 2, 8, 8).repeat(1, 1, 40, 1)
    module = build(depth=depth, chunk=8, max_step=0.1)
    fix_gates(module, 1.0, 0.0, -9.0)
    error = (module(k, k, v, masks.causal()) - v).square().mean((0, 1, 3))
    assert error[-8:].mean() < 0.1 * error[:8].mean()


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_streams_agree_however_they_are_cut(chunk):
    q, k, v = draw(90)
    module = build(chunk=chunk)
    whole = module(q, k, v, masks.causal())
    for sizes in ([90], [1] * 90, [3, 1, 60, 26], [64, 26]):
        state, outs = module.init_state(2, 2, 8, 8), []
        for part in zip(*(x.split(sizes, 2) for x in (q, k, v)), strict=True):
            out, state = module.prefill(*part, state)
            outs.append(out)
        torch.testing.assert_close(torch.cat(outs, 2), whole, atol=1e-5, rtol=1e-5)


def test_recall_reads_without_writing():
    q, k, v = draw(20)
    module = build()
    state = module.init_state(2, 2, 8, 8)
    torch.testing.assert_close(
        module.recall(q, state.weights),
        nn.functional.gelu(nn.functional.normalize(q, dim=-1) @ module.initial[0])
        @ module.initial[1],
    )
    after = module.prefill(q, k, v, state)[1]
    assert not torch.allclose(module.recall(q, after.weights), module.recall(q, state.weights))


def test_padded_positions_give_zero_and_count_for_no_chunk():
    q, k, v = draw(60)
    module = build(chunk=16)
    valid = torch.rand(2, 60, generator=torch.Generator().manual_seed(1)) > 0.4
    out = module(q, k, v, masks.causal() & masks.keys(valid))
    assert (out.transpose(1, 2)[~valid] == 0).all()
    for b in range(2):
        alone = [x[b : b + 1, :, valid[b]] for x in (q, k, v)]
        torch.testing.assert_close(out[b : b + 1, :, valid[b]], module(*alone, masks.causal()))


def test_options_and_masks_are_checked():
    with pytest.raises(ValueError, match="option chunk got 0"):
        build(chunk=0)
    q, k, v = draw(9)
    with pytest.raises(UnsupportedError, match="neural_memory has a causal form only"):
        build()(q, k, v)
    with pytest.raises(UnsupportedError, match="values of width 5"):
        build()(q, k, v[..., :5], masks.causal())

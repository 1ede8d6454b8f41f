"""The three Titans architectures: causal, the same however a stream is cut, of constant state."""

from __future__ import annotations

import pytest
import torch

from shared_attention import UnsupportedError, masks
from shared_attention.layers.titans import MemoryAsContext, MemoryAsGate, MemoryAsLayer

KINDS = {"context": MemoryAsContext, "gate": MemoryAsGate, "layer": MemoryAsLayer}


@pytest.fixture(params=KINDS)
def layer(request):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        options = {} if request.param == "context" else {"chunk": 6}
        return KINDS[request.param](16, 2, window=8, memory_options={**options, "max_step": 0.1})


def draw(length: int, seed: int = 0):
    return torch.randn(2, length, 16, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sizes", [[1] * 37, [8, 8, 8, 13], [3, 20, 1, 1, 12]])
def test_streams_agree_however_they_are_cut(layer, sizes):
    x = draw(37)
    state, outs = layer.init_state(2), []
    for part in x.split(sizes, 1):
        advance = layer.step if part.shape[1] == 1 else layer.prefill
        out, state = advance(part, state)
        outs.append(out)
    torch.testing.assert_close(torch.cat(outs, 1), layer(x), atol=1e-5, rtol=1e-5)


def test_no_output_depends_on_a_later_position(layer):
    x = draw(37).requires_grad_()
    out = layer(x)
    for cut in (3, 8, 20, 36):
        gradient = torch.autograd.grad(out[:, :cut].sum(), x, retain_graph=True)[0]
        assert (gradient[:, cut:] == 0).all()
        changed = torch.cat([x[:, :cut], 3 * draw(37, seed=1)[:, cut:]], 1)
        torch.testing.assert_close(layer(changed)[:, :cut], out[:, :cut], atol=1e-6, rtol=1e-5)


def test_what_lies_beyond_the_window_is_remembered(layer):
    x = draw(60)
    changed = torch.cat([draw(60, seed=1)[:, :4], x[:, 4:]], 1)
    assert not torch.allclose(layer(changed)[:, -1], layer(x)[:, -1], rtol=1e-4, atol=1e-6)


def test_the_state_does_not_grow(layer):
    sizes = []
    state = layer.init_state(2)
    for _ in range(6):
        state = layer.prefill(draw(24), state)[1]
        tensors = (*state.memory.weights, *state.memory.momentum, state.k, state.v)
        sizes.append(sum(x.numel() for x in tensors))
    assert len(set(sizes)) == 1


def test_every_parameter_learns(layer):
    layer(draw(37)).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad.isfinite().all() and (parameter.grad != 0).any(), name


def test_masks_and_sizes_are_checked(layer):
    torch.testing.assert_close(layer(draw(9), masks.causal()), layer(draw(9)))
    with pytest.raises(UnsupportedError, match="takes no mask but"):
        layer(draw(9), masks.keys(torch.ones(2, 9, dtype=torch.bool)))
    with pytest.raises(ValueError, match="num_heads 3 does not divide d_model 16"):
        type(layer)(16, 3)
    with pytest.raises(ValueError, match="chunk got 4, expected the segment's length 8"):
        MemoryAsContext(16, 2, window=8, memory_options={"chunk": 4})

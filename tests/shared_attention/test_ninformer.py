"""The NiNformer block: its equations, its published form, its fixed length."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from shared_attention import UnsupportedError, catalogue, masks
from shared_attention.mechanisms.ninformer import MixerGate, NinBlock


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_tokens_are_mixed_by_one_network_for_every_channel():
    gate, x = MixerGate(6, 9, 5), draw(2, 9, 6)
    torch.testing.assert_close(gate.tokens.along_tokens(x), gate.tokens(x.mT).mT)


def test_without_mixing_the_gate_is_a_product_with_the_projection():
    gate, x = MixerGate(6, 9, 5), draw(2, 9, 6)
    for network in (gate.tokens, gate.channels):
        nn.init.zeros_(network.down.weight)
        nn.init.zeros_(network.down.bias)
    torch.testing.assert_close(gate(x), x * gate.proj(x))


def test_the_published_form_shares_one_norm_and_the_default_does_not():
    torch.manual_seed(0)
    own, shared = (NinBlock(6, length=9, form=form) for form in ("corrected", "published"))
    state = own.state_dict()
    shared.load_state_dict({n: x for n, x in state.items() if "second" not in n})
    x = draw(2, 9, 6)
    torch.testing.assert_close(own(x), shared(x))
    for module in (own, shared):
        module.norm.weight.data.mul_(2)
    assert not torch.allclose(own(x), shared(x))


def test_other_lengths_and_masks_are_refused():
    with pytest.raises(ValueError, match="ninformer: option length has to be given"):
        catalogue()["ninformer"].build(channels=6)
    module = NinBlock(6, length=9)
    with pytest.raises(ValueError, match="x has length 8, expected 9"):
        module(draw(2, 8, 6))
    with pytest.raises(UnsupportedError, match="ninformer cannot honour a key padding mask"):
        module(draw(2, 9, 6), mask=masks.keys(torch.ones(2, 9, dtype=torch.bool)))
    with pytest.raises(ValueError, match="hidden got 0"):
        NinBlock(6, length=9, hidden=0)

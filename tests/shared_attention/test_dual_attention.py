"""Position and channel attention beyond the conformance kit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from shared_attention import UnsupportedError, masks
from shared_attention.mechanisms.channel import ChannelAttention
from shared_attention.mechanisms.position import PositionAttention
from shared_attention.primitives import query_blocks
from shared_attention.primitives.query_blocks import narrow_attention


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("module", [PositionAttention(8), ChannelAttention(8)])
def test_a_new_module_is_the_identity(module):
    x = draw(2, 3, 4, 5, 8)
    assert torch.equal(module(x), x)


@pytest.mark.parametrize("kept", [4, 2**18])
def test_blocks_of_queries_and_fused_attention_agree(kept, monkeypatch):
    q, k, v = draw(2, 90, 3), draw(2, 90, 3, seed=1), draw(2, 90, 12, seed=2)
    valid = draw(2, 90, seed=3) > 0
    valid[1] = False
    full = F.scaled_dot_product_attention(q, k, v, scale=0.7)
    monkeypatch.setattr(query_blocks, "SCORES", kept)
    blocks = narrow_attention(q, k, v, valid=valid, scale=0.7)
    torch.testing.assert_close(narrow_attention(q, k, v, scale=0.7), full)
    assert (blocks[1] == 0).all()
    monkeypatch.setattr(query_blocks, "MANY", 10)
    torch.testing.assert_close(narrow_attention(q, k, v, valid=valid, scale=0.7), blocks)
    torch.testing.assert_close(narrow_attention(q, k, v, scale=0.7), full)


@pytest.mark.parametrize("build", [PositionAttention, ChannelAttention])
def test_a_padded_volume_gives_what_it_gives_alone(build):
    module, x = build(8), draw(1, 3, 4, 2, 8)
    module.gamma.data.fill_(0.7)
    padded = F.pad(x, (0, 0, 1, 2, 0, 1, 2, 0), value=float("nan"))
    inside = F.pad(torch.ones(1, 3, 4, 2, dtype=torch.bool), (1, 2, 0, 1, 2, 0))
    out = module(padded, mask=masks.keys(inside.flatten(1)))
    torch.testing.assert_close(out[inside], module(x).flatten(0, 3))
    assert (out[~inside] == 0).all()


def test_channels_attend_to_the_least_alike():
    module = ChannelAttention(3)
    module.gamma.data.fill_(1.0)
    x = 5 * torch.stack([torch.ones(9), torch.ones(9), -torch.ones(9)], -1)[None]
    torch.testing.assert_close(module(x)[0, 0], torch.tensor([0.0, 0.0, 0.0]))


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="reduction got 9, expected 1 to 8"):
        PositionAttention(8, reduction=9)
    for module in (PositionAttention(8), ChannelAttention(8)):
        with pytest.raises(UnsupportedError, match="cannot honour a causal mask"):
            module(draw(2, 5, 8), mask=masks.causal())
        with pytest.raises(ValueError, match=r"masks\.keys: got shape \[2, 4\]"):
            module(draw(2, 5, 8), mask=masks.keys(torch.ones(2, 4, dtype=torch.bool)))


def test_channel_attention_trains_under_autocast_with_energies_in_full_precision():
    torch.manual_seed(0)
    module = ChannelAttention(8)
    module.gamma.data.fill_(1.0)
    x = torch.randn(2, 2000, 8, requires_grad=True)
    exact = module(x)
    with torch.autocast("cpu", torch.bfloat16):
        out = module(x)
    # Energies are sums over 2000 positions: rounded to 8 bits they would be off by several.
    torch.testing.assert_close(out, exact, rtol=0.02, atol=0.02)
    out.square().sum().backward()
    assert x.grad.isfinite().all() and x.grad.dtype == torch.float32

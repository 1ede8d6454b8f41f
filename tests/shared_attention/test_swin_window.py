"""What is particular to window attention: any grid, any shift, and a bias that learns."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from shared_attention.mechanisms.swin_window import SwinWindowAttention
from shared_attention.primitives.packed_attention import packed_attention
from shared_attention.references.swin_window import reference_swin_window


def build(**options):
    torch.manual_seed(0)
    module = SwinWindowAttention(8, num_heads=2, **options).double()
    torch.nn.init.normal_(module.relative_position_bias_table)
    return module


@pytest.mark.parametrize("grid", [(3, 4), (4, 9), (5, 8), (11, 7), (1, 13)])
@pytest.mark.parametrize(("window", "shift"), [(4, 0), (4, 1), (4, 3), ((2, 5), (1, 2))])
def test_every_remainder_and_shift_equals_attention_within_blocks(grid, window, shift):
    module = build(window=window, shift=shift)
    x = torch.randn(2, *grid, 8, dtype=torch.float64)
    expected = reference_swin_window(
        x, dict(module.named_parameters()), num_heads=2, window=window, shift=shift
    )
    torch.testing.assert_close(module(x), expected)


def test_without_shift_a_window_sees_nothing_else():
    module = build(window=3)
    x = torch.randn(1, 6, 6, 8, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(module(x)[:, :3, :3].sum(), x)
    assert (gradient[:, :3, :3] != 0).all()
    assert (gradient[:, 3:] == 0).all() and (gradient[:, :, 3:] == 0).all()


def test_a_shift_hides_what_wrapped_round_whatever_the_scores():
    module = build(window=4, shift=2, dims=1)
    x = 1e3 * torch.randn(1, 8, 8, dtype=torch.float64)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(module(x)[:, :2].sum(), x)
    assert (gradient[:, 2:] == 0).all()


def test_one_window_over_the_whole_grid_is_attention_with_its_bias():
    module = build(window=5, dims=1)
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    q, k, v = module.qkv(x).unflatten(-1, (3, 2, 4)).transpose(1, 3).unbind(2)
    table = module.relative_position_bias_table
    offsets = torch.arange(5)[:, None] - torch.arange(5) + 4
    bias = table[offsets].permute(2, 0, 1)
    out = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    torch.testing.assert_close(module(x), module.proj(out.transpose(1, 2).flatten(2)))


def test_a_window_cut_to_a_small_grid_reads_the_biases_of_its_own_offsets():
    module = build(window=7)
    x = torch.randn(1, 2, 3, 8, dtype=torch.float64)
    small = build(window=(2, 3))
    small.load_state_dict(
        module.state_dict()
        | {
            "relative_position_bias_table": module.relative_position_bias_table.view(13, 13, 2)[
                5:8, 4:9
            ].reshape(-1, 2)
        }
    )
    torch.testing.assert_close(module(x), small(x))


@pytest.mark.parametrize("at_once", [1, 100, 10**6])
def test_the_own_backward_pass_equals_autograd(monkeypatch, at_once):
    monkeypatch.setattr("shared_attention.primitives.packed_attention.SCORES_AT_ONCE", at_once)
    torch.manual_seed(0)
    qkv = torch.randn(7, 5, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    biases = [torch.randn(2, 5, 5, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    hidden = torch.eye(5, dtype=torch.bool).roll(1, 0)

    def masked():
        return [biases[0], biases[1].masked_fill(hidden, -math.inf)]

    out = packed_attention(qkv, masked(), (4, 3))
    plain = []
    for part, bias in zip(qkv.split([4, 3]), masked(), strict=True):
        q, k, v = part.transpose(1, 3).unbind(2)
        plain.append(((q @ k.mT / 2 + bias).softmax(-1) @ v).transpose(1, 2).flatten(2))
    expected = torch.cat(plain)
    torch.testing.assert_close(out, expected)
    wanted = (qkv, *biases)
    weight = torch.randn_like(out)
    mine = torch.autograd.grad((out * weight).sum(), wanted)
    theirs = torch.autograd.grad((expected * weight).sum(), wanted)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_options_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="num_heads 3 does not divide channels 8"):
        SwinWindowAttention(8, num_heads=3)
    with pytest.raises(ValueError, match="window 4 with shift 4"):
        SwinWindowAttention(8, window=4, shift=4)
    with pytest.raises(ValueError, match=r"window got \(7, 7, 7\), expected 2 sizes"):
        SwinWindowAttention(8, window=(7, 7, 7))
    with pytest.raises(ValueError, match=r"expected floats .* 2 grid dimensions"):
        SwinWindowAttention(8)(torch.randn(1, 4, 4, 4, 8))

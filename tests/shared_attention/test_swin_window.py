"""What is particular to window attention: any grid, any shift, and a bias that learns."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from shared_attention.mechanisms.swin_window import SwinWindowAttention
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
@pytest.mark.parametrize("short", [0, 160])
@pytest.mark.parametrize("options", [{}, {"shift": 1}, {"shift": 1, "qkv_bias": False}])
def test_a_few_windows_at_a_time_equal_the_layers_in_turn(monkeypatch, at_once, short, options):
    piece = "shared_attention.primitives.window_layer."
    for name in ("SCORES_AT_ONCE", "ROWS_AT_ONCE"):
        monkeypatch.setattr(piece + name, at_once)
    monkeypatch.setattr(piece + "SHORT", short)
    module = build(window=3, **options)
    x = torch.randn(2, 7, 6, 8, dtype=torch.float64, requires_grad=True)
    out = module(x)
    with torch.no_grad():
        torch.testing.assert_close(module(x), out)
    monkeypatch.setattr("shared_attention.mechanisms.swin_window.serves", lambda *_: False)
    expected = module(x)
    torch.testing.assert_close(out, expected)
    wanted = (x, *module.parameters())
    weight = torch.randn_like(out)
    mine = torch.autograd.grad((out * weight).sum(), wanted)
    theirs = torch.autograd.grad((expected * weight).sum(), wanted)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", ["qkv", "proj"])
def test_what_is_hung_on_a_layer_runs(name):
    module = build(window=3)
    x = torch.randn(1, 6, 6, 8, dtype=torch.float64)
    plain, seen = module(x), []
    layer = module.get_submodule(name)
    handle = layer.register_forward_hook(lambda _, __, out: seen.append(1) or 2 * out)
    assert not torch.allclose(module(x), plain) and seen == [1]
    handle.remove()
    torch.nn.utils.parametrizations.weight_norm(layer)
    module(x).sum().backward()
    assert layer.parametrizations.weight.original0.grad is not None


def test_frozen_layers_get_no_gradient():
    module = build(window=3).requires_grad_(False)
    x = torch.randn(1, 6, 6, 8, dtype=torch.float64, requires_grad=True)
    module(x).sum().backward()
    assert x.grad is not None and all(p.grad is None for p in module.parameters())


def test_options_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="num_heads 3 does not divide channels 8"):
        SwinWindowAttention(8, num_heads=3)
    with pytest.raises(ValueError, match="window 4 with shift 4"):
        SwinWindowAttention(8, window=4, shift=4)
    with pytest.raises(ValueError, match=r"window got \(7, 7, 7\), expected 2 sizes"):
        SwinWindowAttention(8, window=(7, 7, 7))
    with pytest.raises(ValueError, match=r"expected floats .* 2 grid dimensions"):
        SwinWindowAttention(8)(torch.randn(1, 4, 4, 4, 8))

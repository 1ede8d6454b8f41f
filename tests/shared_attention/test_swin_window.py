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


@pytest.mark.parametrize("at_once", [1, 200, 10**6])
@pytest.mark.parametrize(("short", "kept"), [(0, 0), (160, 0), (160, 10**6)])
@pytest.mark.parametrize("options", [{}, {"shift": 1}, {"shift": 1, "qkv_bias": False}])
def test_a_few_windows_at_a_time_equal_the_layers_in_turn(
    monkeypatch, at_once, short, kept, options
):
    piece = "shared_attention.primitives.window_layer."
    for name in ("SCORES_AT_ONCE", "ROWS_AT_ONCE"):
        monkeypatch.setattr(piece + name, at_once)
    monkeypatch.setattr(piece + "SHORT", short)
    monkeypatch.setattr(piece + "KEPT", kept)
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


@pytest.mark.parametrize("shift", [0, 2])
def test_maps_are_the_weights_that_the_output_is_mixed_with(shift):
    module = build(window=4, shift=shift)
    x = torch.randn(2, 7, 5, 8, dtype=torch.float64)
    given = module.output(x)
    torch.testing.assert_close(given.out, module(x))
    weights = given.maps.weights()
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    one_window = module.output(x[:, :4, :4])
    values = module.qkv(x[:, :4, :4]).unflatten(-1, (3, 2, 4))[..., 2, :, :].flatten(1, 2)
    mixed = torch.einsum("bhij,bjhd->bihd", one_window.maps.weights(), values).flatten(2)
    torch.testing.assert_close(one_window.out.flatten(1, 2), module.proj(mixed))


@pytest.mark.parametrize("combine", ["add", "multiply"])
def test_received_maps_are_added_to_or_multiplied_with_the_own(combine):
    torch.manual_seed(1)
    sender, module = build(window=4, shift=1), build(window=4, shift=1)
    torch.nn.init.normal_(sender.relative_position_bias_table)
    x, other = torch.randn(2, 1, 4, 4, 8, dtype=torch.float64).unbind(0)
    received = sender.output(other).maps
    given = module.output(x, received, combine)
    own, sent = module.output(x).maps.weights(), received.weights()
    product = own * sent
    both = own + sent if combine == "add" else product / product.sum(-1, keepdim=True)
    values = module.qkv(x).unflatten(-1, (3, 2, 4))[..., 2, :, :].flatten(1, 2)
    mixed = torch.einsum("bhij,bjhd->bihd", both, values).flatten(2)
    torch.testing.assert_close(given.out.flatten(1, 2), module.proj(mixed))


@pytest.mark.parametrize("combine", ["add", "multiply"])
def test_received_maps_change_shifted_windows_and_teach_their_sender(combine):
    sender, module = build(window=4, shift=2), build(window=4, shift=2)
    x, other = torch.randn(2, 2, 8, 6, 8, dtype=torch.float64).unbind(0)
    out = module.output(x, sender.output(other).maps, combine).out
    assert out.isfinite().all() and (out - module(x)).abs().amax((0, 3)).min() > 1e-6
    out.square().sum().backward()
    assert sender.relative_position_bias_table.grad.abs().sum() > 0
    queries, keys, values = sender.qkv.weight.grad.chunk(3)
    assert queries.abs().sum() > 0 and keys.abs().sum() > 0 and values.abs().sum() == 0


def test_maps_of_other_windows_are_refused():
    module = build(window=3)
    received = module.output(torch.randn(1, 6, 6, 8, dtype=torch.float64)).maps
    x = torch.randn(1, 7, 6, 8, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"windows, heads and positions \[4, 2, 9\], expected \[6"):
        module.output(x, received)
    with pytest.raises(ValueError, match="combine got 'or'"):
        module.output(x, None, "or")


def test_an_exported_program_takes_any_batch():
    module = build(window=3, shift=1).eval()
    x = torch.randn(2, 5, 4, 8, dtype=torch.float64)
    program = torch.export.export(module, (x,), dynamic_shapes={"x": {0: torch.export.Dim.DYNAMIC}})
    more = torch.randn(5, 5, 4, 8, dtype=torch.float64)
    torch.testing.assert_close(program.module()(more), module(more))

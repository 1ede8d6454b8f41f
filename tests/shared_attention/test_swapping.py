"""Swapping attention in models that are not this project's: PyTorch's layers and torchvision."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from shared_attention import UnsupportedError, attention, catalogue, masks, swap
from shared_attention.layers import EncoderLayer, MultiHeadAttention
from shared_attention.layers.swapped import SwappedAttention

pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")

HEADS, WIDTH = 4, 16


def inputs(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def padded(length: int = 7, real: int = 4) -> Tensor:
    """Return PyTorch's key_padding_mask `[2, length]`: True = padding, in the second sample."""
    padding = torch.zeros(2, length, dtype=torch.bool)
    padding[1, real:] = True
    return padding


def layer(**arguments) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    made = nn.MultiheadAttention(WIDTH, HEADS, **{"batch_first": True, **arguments}).double()
    for name, parameter in made.named_parameters():
        if "bias" in name:
            nn.init.normal_(parameter, std=0.3)
    return made


def encoder(layers: int = 2, **arguments) -> nn.TransformerEncoder:
    torch.manual_seed(0)
    one = nn.TransformerEncoderLayer(
        WIDTH, HEADS, 32, **{"batch_first": True, "dropout": 0.0, **arguments}
    )
    return nn.TransformerEncoder(one, layers, enable_nested_tensor=not one.norm_first).double()


def as_float(hidden: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.zeros(hidden.shape, dtype=dtype).masked_fill(hidden, -torch.inf)


CAUSAL = torch.ones(7, 7, dtype=torch.bool).triu(1)
SPARSE = CAUSAL & (inputs(7, 7, seed=9) > 0)
PER_HEAD = inputs(2 * HEADS, 7, 7, seed=8) > 1.0
CALLS = {
    "plain": {},
    "padding": {"key_padding_mask": padded()},
    "float padding": {"key_padding_mask": as_float(padded())},
    "padding bias": {"key_padding_mask": inputs(2, 7, seed=3)},
    "causal": {"attn_mask": CAUSAL},
    "causal hint": {"attn_mask": CAUSAL, "is_causal": True},
    "float causal": {"attn_mask": as_float(CAUSAL)},
    "causal and padding": {"attn_mask": CAUSAL, "key_padding_mask": padded()},
    "float both": {"attn_mask": as_float(CAUSAL), "key_padding_mask": as_float(padded())},
    "any mask": {"attn_mask": SPARSE},
    "a mask per head": {"attn_mask": PER_HEAD},
    "a bias per head": {"attn_mask": inputs(2 * HEADS, 7, 7, seed=4)},
    "bias and mask in one": {"attn_mask": inputs(7, 7, seed=5) + as_float(SPARSE)},
    "most negative number": {
        "attn_mask": torch.zeros(7, 7).double().masked_fill(CAUSAL, torch.finfo(torch.float64).min)
    },
    "mixed types": {"attn_mask": inputs(7, 7, seed=6), "key_padding_mask": as_float(padded())},
}
BUILDS = {
    "batch first": {},
    "length first": {"batch_first": False},
    "no bias": {"bias": False},
    "key and zero": {"add_bias_kv": True, "add_zero_attn": True},
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("build", BUILDS)
def test_softmax_gives_outputs_weights_and_gradients_of_the_original(build, call):
    theirs = layer(**BUILDS[build])
    ours = copy.deepcopy(theirs)
    assert swap(ours, "softmax") == 1
    x = inputs(2, 7, WIDTH)
    x = x if theirs.batch_first else x.transpose(0, 1)
    results = []
    for module in (theirs, ours):
        own = x.clone().requires_grad_()
        out, weights = module(own, own, own, average_attn_weights=False, **CALLS[call])
        (out * inputs(*out.shape, seed=1)).sum().backward()
        gradients = [own.grad, *(parameter.grad for parameter in module.parameters())]
        results.append([out, weights, *gradients])
    for ours_result, theirs_result in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(ours_result, theirs_result, atol=1e-10, rtol=1e-10)


def test_cross_attention_with_other_widths_and_unbatched_inputs():
    theirs = layer(kdim=6, vdim=10)
    ours = copy.deepcopy(theirs)
    swap(ours, "softmax")
    q, k, v = inputs(2, 5, WIDTH), inputs(2, 7, 6, seed=1), inputs(2, 7, 10, seed=2)
    for arguments in ({}, {"key_padding_mask": padded()}, {"attn_mask": inputs(5, 7) > 0.5}):
        for got, expected in zip(
            ours(q, k, v, **arguments), theirs(q, k, v, **arguments), strict=True
        ):
            torch.testing.assert_close(got, expected)
    for got, expected in zip(ours(q[0], k[0], v[0]), theirs(q[0], k[0], v[0]), strict=True):
        torch.testing.assert_close(got, expected)
    alone = {"key_padding_mask": padded()[1]}
    torch.testing.assert_close(
        ours(q[1], k[1], v[1], **alone)[0], theirs(q[1], k[1], v[1], **alone)[0]
    )


def test_the_layer_remains_the_same_object_with_the_same_parameters_and_checkpoint():
    module = layer()
    parameters = dict(module.named_parameters())
    seen: list[str] = []
    module.register_forward_hook(lambda *_: seen.append("hook"))
    state = {name: value.clone() for name, value in module.state_dict().items()}
    swap(module, "linear")
    assert type(module) is SwappedAttention
    assert all(parameter is parameters[name] for name, parameter in module.named_parameters())
    module.load_state_dict(state)
    x = inputs(2, 7, WIDTH)
    module(x, x, x)
    assert seen == ["hook"]
    swap(module, "softmax")
    torch.testing.assert_close(module(x, x, x), layer()(x, x, x))


def test_the_mechanism_really_runs_on_the_projections_of_the_layer():
    module = layer()
    x = inputs(2, 7, WIDTH)
    q, k, v = (
        nn.functional.linear(x, w, b).unflatten(-1, (HEADS, -1)).transpose(1, 2)
        for w, b in zip(module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3), strict=True)
    )
    valid = ~padded()
    mask = masks.causal() & masks.keys(valid)
    expected = attention(q, k, v, "linear", mask).transpose(1, 2).flatten(2)
    swap(module, "linear")
    out, weights = module(x, x, x, key_padding_mask=padded(), attn_mask=CAUSAL)
    torch.testing.assert_close(out, module.out_proj(expected))
    assert weights.shape == (2, 7, 7) and not weights[:, CAUSAL].any()
    assert not weights[1, :, 4:].any()


@pytest.mark.parametrize("arguments", [{}, {"norm_first": True}, {"activation": "gelu"}])
def test_encoders_give_their_outputs_in_training_and_through_the_fused_path(arguments):
    theirs = encoder(**arguments)
    ours = copy.deepcopy(theirs)
    assert swap(ours, "softmax") == 2
    x = inputs(2, 7, WIDTH)
    real = ~padded()
    for call in ({}, {"mask": CAUSAL}, {"src_key_padding_mask": padded()}):
        for mode in (True, False):
            theirs.train(mode), ours.train(mode)
            with torch.set_grad_enabled(mode):
                got, expected = ours(x, **call), theirs(x, **call)
            # PyTorch's nested inference path writes zeros at padded positions.
            where = real if call.keys() & {"src_key_padding_mask"} else torch.ones_like(real)
            torch.testing.assert_close(got[where], expected[where], atol=1e-6, rtol=1e-6)


def test_the_fused_path_of_an_encoder_does_not_bypass_the_mechanism():
    model = encoder().eval()
    x = inputs(2, 7, WIDTH)
    for call in ({}, {"src_key_padding_mask": padded()}):
        swap(model, "softmax")
        with torch.no_grad():
            softmax = model(x, **call)
        swap(model, "linear")
        with torch.no_grad():
            fused = model(x, **call)
        torch.testing.assert_close(fused, model(x, **call))
        assert (fused - softmax).abs().max() > 1e-3


def test_nested_tensors_of_an_encoder_that_was_not_swapped_as_a_whole_are_refused():
    model = encoder().eval()
    swap(model.layers, "linear")
    refused = pytest.raises(UnsupportedError, match=r"swap the nn\.TransformerEncoder as a whole")
    with torch.no_grad(), refused:
        model(inputs(2, 7, WIDTH), src_key_padding_mask=padded())


def test_a_whole_transformer_gives_its_outputs():
    torch.manual_seed(0)
    theirs = nn.Transformer(WIDTH, HEADS, 1, 2, 32, 0.0, batch_first=True).double()
    ours = copy.deepcopy(theirs)
    assert swap(ours, "softmax") == 5
    source, target = inputs(2, 7, WIDTH), inputs(2, 5, WIDTH, seed=1)
    call = {
        "tgt_mask": nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64),
        "src_key_padding_mask": as_float(padded()),
        "memory_key_padding_mask": as_float(padded()),
    }
    torch.testing.assert_close(ours(source, target, **call), theirs(source, target, **call))


PADDING = [
    name
    for name, spec in catalogue().items()
    if spec.family == "attention"
    and spec.supports("key_padding")
    and spec.capabilities.causal != "always"
]


@pytest.mark.parametrize("name", PADDING)
def test_padding_changes_nothing_after_the_swap(name):
    model = encoder().eval()
    swap(model, name)
    x = inputs(2, 12, WIDTH)
    padding = padded(12, real=9)
    other = x.clone()
    other[1, 9:] = 100.0
    shorter = x[1:, :9]
    with torch.no_grad():
        out = model(x, src_key_padding_mask=padding)
        changed = model(other, src_key_padding_mask=padding)
        alone = model(shorter)
    torch.testing.assert_close(changed[~padding], out[~padding], atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(alone[0], out[1, :9], atol=1e-9, rtol=1e-9)


CAUSAL_FORM = [n for n in PADDING if catalogue()[n].supports("causal")] + [
    "gated_linear",
    "liger",
    "neural_memory",
]


@pytest.mark.parametrize("name", CAUSAL_FORM)
def test_a_causal_mask_keeps_the_future_out_after_the_swap(name):
    torch.manual_seed(0)
    one = nn.TransformerEncoderLayer(WIDTH, HEADS, 32, 0.0, batch_first=True)
    model = nn.TransformerEncoder(one, 2).double().eval()
    swap(model, name)
    x = inputs(2, 12, WIDTH)
    later = x.clone()
    later[:, 8:] = inputs(2, 4, WIDTH, seed=5)
    causal = nn.Transformer.generate_square_subsequent_mask(12, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(model(later, causal)[:, :8], model(x, causal)[:, :8])
        assert (model(later, causal) - model(x, causal)).abs().max() > 1e-3


def test_rows_that_see_nothing_are_zero_before_the_output_projection():
    module = layer()
    swap(module, "softmax")
    x = inputs(2, 7, WIDTH)
    hidden = torch.zeros(7, 7, dtype=torch.bool)
    hidden[3] = True
    out = module(x, x, x, attn_mask=hidden, need_weights=False)[0]
    torch.testing.assert_close(out[:, 3], module.out_proj.bias.expand(2, -1))


def test_dropout_drops_channels_in_training_only():
    module = layer(dropout=0.5)
    plain = layer()
    for one in (module, plain):
        swap(one, "softmax")
    x = inputs(2, 7, WIDTH)
    assert not torch.allclose(module(x, x, x)[0], plain(x, x, x)[0])
    torch.testing.assert_close(module.eval()(x, x, x)[0], plain(x, x, x)[0])
    module.train().out_proj = nn.Identity()
    plain.out_proj = nn.Identity()
    out, whole = module(x, x, x)[0], plain(x, x, x)[0]
    kept = out != 0
    assert 0.3 < kept.double().mean() < 0.7
    torch.testing.assert_close(out[kept], 2 * whole[kept])


def test_a_learned_float_mask_gets_its_gradient_and_others_are_refused():
    module = layer()
    swap(module, "softmax")
    x = inputs(2, 7, WIDTH)
    bias = torch.zeros(7, 7, dtype=torch.float64, requires_grad=True)
    module(x, x, x, attn_mask=bias, need_weights=False)[0].square().sum().backward()
    assert bias.grad.abs().sum() > 0
    swap(module, "linear")
    module.place = "blocks.0.attn"
    with pytest.raises(UnsupportedError, match=r"blocks\.0\.attn .*an additive bias: it lacks"):
        module(x, x, x, attn_mask=inputs(7, 7), need_weights=False)
    with pytest.raises(UnsupportedError, match="dense mask: it lacks the capability dense_mask"):
        module(x, x, x, attn_mask=SPARSE, need_weights=False)


def test_what_no_layer_can_take_is_refused_layer_by_layer_and_changes_nothing():
    model = nn.ModuleDict(
        {
            "ours": EncoderLayer(MultiHeadAttention(WIDTH, HEADS), WIDTH, 32),
            "theirs": encoder(),
            "odd": layer(add_zero_attn=True),
            "decoder": nn.TransformerDecoderLayer(WIDTH, HEADS, 32, batch_first=True),
        }
    )
    before = [type(m) for m in model.modules()]
    with pytest.raises(UnsupportedError) as error:
        swap(model, "agent")
    lines = str(error.value).splitlines()
    assert lines[0].startswith(
        "swap: nothing was changed; odd: agent cannot honour the key that add_bias_kv or "
        "add_zero_attn appends: it lacks the capability cross; mechanisms that have it: softmax"
    )
    assert lines[1].startswith(
        "decoder.multihead_attn: agent cannot honour keys of another sequence (cross-attention)"
    )
    with pytest.raises(UnsupportedError) as error:
        swap(model, "scan")
    assert str(error.value) == (
        "swap: nothing was changed; theirs.layers.0.self_attn, theirs.layers.1.self_attn, odd "
        "and 2 more: scan is of family recurrent and has a query of its own; "
        "nn.MultiheadAttention takes mechanisms of family attention"
    )
    assert [type(m) for m in model.modules()] == before
    assert model["ours"].attention.spec.name == "softmax"
    assert model["theirs"].use_nested_tensor
    with pytest.raises(ValueError, match="window has no option 'size'"):
        swap(model, "window", size=3)
    assert swap(model["decoder"].self_attn, "agent") == 1


def test_other_classes_that_derive_from_the_layer_are_refused():
    class Quiet(nn.MultiheadAttention):
        pass

    with pytest.raises(UnsupportedError, match="attn: it is a Quiet, which may compute"):
        swap(nn.ModuleDict({"attn": Quiet(WIDTH, HEADS)}), "linear")


def test_weights_of_mechanisms_that_have_none_are_refused_and_the_output_is_given():
    spec = catalogue()["neural_memory"]
    assert not spec.supports("linear_in_v")
    module = layer()
    swap(module, "neural_memory")
    x = inputs(2, 7, WIDTH)
    with pytest.raises(UnsupportedError, match=r"not linear in v.*need_weights=False"):
        module(x, x, x, attn_mask=CAUSAL)
    assert module(x, x, x, attn_mask=CAUSAL, need_weights=False)[1] is None
    with pytest.raises(UnsupportedError, match="neural_memory has a causal form only"):
        module(x, x, x, need_weights=False)


def test_mechanisms_are_told_which_padded_keys_are_queries():
    module = layer()
    swap(module, "flow")
    x, y = inputs(2, 7, WIDTH), inputs(2, 7, WIDTH, seed=1)
    with pytest.raises(UnsupportedError, match="swap this layer with self_attention=True or"):
        module(x, y, y, key_padding_mask=padded(), need_weights=False)
    assert module(x, y, y, need_weights=False)[0].shape == x.shape
    decoder = nn.TransformerDecoderLayer(WIDTH, HEADS, 32, 0.0, batch_first=True).double()
    swap(decoder, "flow")
    rows = decoder(x, y, memory_key_padding_mask=padded())
    shorter = decoder(x[1:], y[1:, :4])
    torch.testing.assert_close(rows[1:], shorter)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"attn_mask": CAUSAL[:3]},
            r"attn_mask has shape \[3, 7\], expected \[7, 7\] or \[8, 7, 7",
        ),
        ({"attn_mask": CAUSAL.long()}, "attn_mask has dtype torch.int64, expected bool or float"),
        (
            {"key_padding_mask": padded(5)},
            r"key_padding_mask has shape \[2, 5\], expected \[2, 7",
        ),
        ({"is_causal": True}, "is_causal says that attn_mask is causal, but there is none"),
    ],
)
def test_masks_that_do_not_fit_are_refused(arguments, message):
    module = layer()
    swap(module, "softmax")
    x = inputs(2, 7, WIDTH)
    with pytest.raises(ValueError, match=message):
        module(x, x, x, **arguments)


def test_a_wrong_hint_of_causality_is_not_believed():
    module = layer()
    swap(module, "softmax")
    x = inputs(2, 7, WIDTH)
    got = module(x, x, x, attn_mask=SPARSE, is_causal=True, need_weights=False)[0]
    torch.testing.assert_close(got, layer()(x, x, x, attn_mask=SPARSE)[0])


def test_compiled_layers_keep_their_masks():
    model = encoder().layers[0].eval()
    swap(model, "linear")
    x = inputs(2, 7, WIDTH)
    program = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        call = {"src_key_padding_mask": padded(), "src_mask": CAUSAL, "is_causal": True}
        torch.testing.assert_close(program(x, **call), model(x, **call))
        with pytest.raises(RuntimeError, match="attn_mask is not causal"):
            program(x, **{**call, "src_mask": SPARSE})


def test_a_vision_transformer_of_torchvision_gives_its_outputs_and_trains():
    vision = pytest.importorskip("torchvision.models.vision_transformer")
    torch.manual_seed(0)
    theirs = vision.VisionTransformer(16, 8, 2, 4, 32, 64, num_classes=3).double()
    nn.init.normal_(theirs.heads.head.weight)
    ours = copy.deepcopy(theirs)
    assert swap(ours, "softmax") == 2
    x = inputs(2, 3, 16, 16)
    for mode in (True, False):
        theirs.train(mode), ours.train(mode)
        torch.testing.assert_close(ours(x), theirs(x), atol=1e-8, rtol=1e-8)
    swap(ours, "gated")
    ours.train()(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in ours.parameters())

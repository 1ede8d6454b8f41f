"""Layers against torch.nn's with the same weights, and their own promises."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from shared_attention import UnsupportedError, attention, masks, swap
from shared_attention.layers import (
    DecoderLayer,
    EncoderLayer,
    KeyValueCache,
    MultiHeadAttention,
    RotaryPositions,
    SinusoidalPositions,
    multihead,
)

X = torch.randn(2, 10, 16, generator=torch.Generator().manual_seed(0))
CONTEXT = torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(1))


def twin(ours: MultiHeadAttention, theirs: nn.MultiheadAttention) -> None:
    theirs.in_proj_weight.data.copy_(ours.project_in.weight)
    theirs.in_proj_bias.data.copy_(ours.project_in.bias)
    theirs.out_proj.load_state_dict(ours.project_out.state_dict())


@pytest.fixture
def pair():
    torch.manual_seed(0)
    ours = MultiHeadAttention(16, 4)
    nn.init.normal_(ours.project_in.bias)
    theirs = nn.MultiheadAttention(16, 4, batch_first=True)
    twin(ours, theirs)
    return ours, theirs


@pytest.mark.parametrize("across", [False, True], ids=["self", "cross"])
def test_equals_torch_with_padding_values_and_gradients(pair, across):
    ours, theirs = pair
    context = CONTEXT if across else X
    valid = torch.arange(context.shape[1]) < torch.tensor([[context.shape[1]], [4]])
    mine = ours(X, context if across else None, mask=masks.keys(valid))
    other, _ = theirs(X, context, context, key_padding_mask=~valid)
    torch.testing.assert_close(mine, other)
    mine.square().sum().backward()
    other.square().sum().backward()
    torch.testing.assert_close(ours.project_in.weight.grad, theirs.in_proj_weight.grad)
    torch.testing.assert_close(ours.project_in.bias.grad, theirs.in_proj_bias.grad)


def test_equals_torch_causal_and_weights(pair):
    ours, theirs = pair
    hidden = torch.ones(10, 10, dtype=torch.bool).triu(1)
    other, weights = theirs(X, X, X, attn_mask=hidden, average_attn_weights=False)
    rich = ours.output(X, mask=masks.causal(), need=("weights",))
    torch.testing.assert_close(rich.out, other)
    torch.testing.assert_close(rich.weights, weights)
    torch.testing.assert_close(ours(X, mask=masks.causal()), other)


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_encoder_and_decoder_equal_torch(norm):
    torch.manual_seed(0)
    options = {"dim_feedforward": 32, "dropout": 0.0, "activation": "gelu", "batch_first": True}
    encoder = EncoderLayer(MultiHeadAttention(16, 4), 16, 32, norm=norm)
    theirs = nn.TransformerEncoderLayer(16, 4, norm_first=norm == "pre", **options)
    twin(encoder.attention, theirs.self_attn)
    copy_rest(encoder, theirs, {"attention_norm": "norm1", "network_norm": "norm2"})
    torch.testing.assert_close(encoder(X), theirs(X))

    decoder = DecoderLayer(MultiHeadAttention(16, 4), MultiHeadAttention(16, 4), 16, 32, norm=norm)
    peer = nn.TransformerDecoderLayer(16, 4, norm_first=norm == "pre", **options)
    twin(decoder.self_attention, peer.self_attn)
    twin(decoder.cross_attention, peer.multihead_attn)
    names = {"self_norm": "norm1", "cross_norm": "norm2", "network_norm": "norm3"}
    copy_rest(decoder, peer, names)
    causal = nn.Transformer.generate_square_subsequent_mask(10)
    torch.testing.assert_close(
        decoder(X, CONTEXT, mask=masks.causal()), peer(X, CONTEXT, tgt_mask=causal)
    )


def copy_rest(ours: nn.Module, theirs: nn.Module, norms: dict[str, str]) -> None:
    theirs.linear1.load_state_dict(ours.network[0].state_dict())
    theirs.linear2.load_state_dict(ours.network[3].state_dict())
    for mine, other in norms.items():
        nn.init.normal_(getattr(ours, mine).weight)
        getattr(theirs, other).load_state_dict(getattr(ours, mine).state_dict())


def test_grouped_heads_equal_repeated_heads():
    torch.manual_seed(0)
    grouped = MultiHeadAttention(16, 4, num_kv_heads=2)
    full = MultiHeadAttention(16, 4)
    q, k, v = grouped.project_in.weight.data.split([16, 8, 8])
    repeat = [w.unflatten(0, (2, 4)).repeat_interleave(2, 0).flatten(0, 1) for w in (k, v)]
    full.project_in.weight.data.copy_(torch.cat([q, *repeat]))
    full.project_out.load_state_dict(grouped.project_out.state_dict())
    torch.testing.assert_close(grouped(X), full(X))


@pytest.mark.parametrize("name", ["softmax", "window", "linear"])
@pytest.mark.parametrize("rotary", [False, True], ids=["plain", "rotary"])
def test_reading_piece_by_piece_equals_reading_at_once(name, rotary):
    torch.manual_seed(0)
    positions = RotaryPositions(4) if rotary else None
    options = {"left": 3} if name == "window" else {}
    layer = MultiHeadAttention(
        16, 4, num_kv_heads=2, mechanism=name, mechanism_options=options, positions=positions
    )
    valid = torch.ones(2, 10, dtype=torch.bool)
    valid[1, 4:6] = False
    full = layer(X, mask=masks.causal() & masks.keys(valid))
    cache = KeyValueCache()
    parts = [
        layer(X[:, part], mask=masks.keys(valid[:, part]), cache=cache)
        for part in (slice(0, 5), slice(5, 6), slice(6, 10))
    ]
    torch.testing.assert_close(torch.cat(parts, 1), full, atol=1e-6, rtol=1e-5)
    assert cache.length == 10


def test_encoder_layers_pass_their_cache_on():
    layer = EncoderLayer(MultiHeadAttention(16, 4), 16, 32, norm="pre")
    cache = KeyValueCache()
    parts = [layer(X[:, i : i + 1], cache=cache) for i in range(10)]
    torch.testing.assert_close(torch.cat(parts, 1), layer(X, mask=masks.causal()))


def test_rotary_scores_depend_on_the_distance_only():
    rotary = RotaryPositions(8)
    q, k = torch.randn(1, 1, 5, 8), torch.randn(1, 1, 5, 8)
    near = rotary(q) @ rotary(k).mT
    far = rotary(q, offset=1000) @ rotary(k, offset=1000).mT
    torch.testing.assert_close(near, far, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(near, rotary(q, offset=3) @ rotary(k).mT, atol=1e-3)
    torch.testing.assert_close(rotary(q).norm(dim=-1), q.norm(dim=-1))


def test_rotary_turns_pairs_as_complex_numbers():
    x = torch.randn(1, 1, 6, 8, dtype=torch.float64)
    speed = 10000.0 ** (-torch.arange(4, dtype=torch.float64) / 4)
    turn = torch.polar(torch.ones(6, 4, dtype=torch.float64), torch.arange(6)[:, None] * speed)
    expected = torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (4, 2))) * turn).flatten(-2)
    torch.testing.assert_close(RotaryPositions(8)(x), expected, atol=1e-6, rtol=1e-6)


def test_sinusoidal_positions_follow_the_paper():
    code = SinusoidalPositions(6)(torch.zeros(1, 4, 6), offset=2)[0]
    for row in range(4):
        for pair in range(3):
            angle = torch.tensor((row + 2) / 10000 ** (2 * pair / 6))
            torch.testing.assert_close(code[row, 2 * pair], angle.sin())
            torch.testing.assert_close(code[row, 2 * pair + 1], angle.cos())
    assert SinusoidalPositions(5)(torch.zeros(1, 4, 5)).shape == (1, 4, 5)


def test_large_layers_take_the_other_matrix_product_and_agree(monkeypatch):
    layer = MultiHeadAttention(16, 4)
    usual = layer(X)
    monkeypatch.setattr("shared_attention.linear._WORTHWHILE", 1)
    torch.testing.assert_close(layer(X), usual)
    torch.testing.assert_close(layer(X, CONTEXT), layer(X, CONTEXT.clone()))


def test_dropout_acts_on_the_output_in_training_only():
    layer = MultiHeadAttention(16, 4, mechanism="linear", dropout=0.5)
    torch.manual_seed(3)
    dropped = layer(X)
    kept = dropped != 0
    layer.eval()
    torch.testing.assert_close(dropped[kept], 2 * layer(X)[kept])
    assert 0.3 < kept.float().mean() < 0.7


def test_compiles_whole():
    torch._dynamo.reset()
    layer = MultiHeadAttention(16, 4, positions=RotaryPositions(4))
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    mask = masks.causal()
    torch.testing.assert_close(compiled(X, mask=mask), layer(X, mask=mask))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: MultiHeadAttention(16, 3),
            "MultiHeadAttention: num_heads 3 does not divide d_model 16; give head_dim",
        ),
        (
            lambda: MultiHeadAttention(16, 4, num_kv_heads=3),
            "MultiHeadAttention: num_kv_heads 3 does not divide num_heads 4",
        ),
        (
            lambda: MultiHeadAttention(16, 4, positions=RotaryPositions(4))(X, CONTEXT),
            "MultiHeadAttention: rotary positions relate steps of one sequence; "
            "leave positions out of layers that attend to a context",
        ),
        (
            lambda: MultiHeadAttention(16, 4)(X, CONTEXT, cache=KeyValueCache()),
            "MultiHeadAttention: a cache continues self-attention; "
            "it takes neither context nor bias",
        ),
        (
            lambda: MultiHeadAttention(16, 4)(X, mask=masks.window(1, 1), cache=KeyValueCache()),
            "MultiHeadAttention: with a cache, mask takes masks.causal() and masks.keys(valid) "
            "of the new positions only",
        ),
        (lambda: RotaryPositions(5), "RotaryPositions: head_dim got 5, expected an even number"),
        (
            lambda: EncoderLayer(MultiHeadAttention(16, 4), 16, 32, norm="both"),
            "norm got 'both', expected 'post' or 'pre'",
        ),
        (
            lambda: EncoderLayer(MultiHeadAttention(16, 4), 16, 32, activation="tanh"),
            "activation got 'tanh', expected one of gelu, relu, silu",
        ),
    ],
)
def test_wrong_use_is_refused_in_words(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == message


def test_swap_changes_every_layer_and_keeps_weights():
    model = nn.Sequential(
        EncoderLayer(MultiHeadAttention(16, 4), 16, 32),
        EncoderLayer(MultiHeadAttention(16, 4), 16, 32),
    ).eval()
    before = {name: p.clone() for name, p in model.named_parameters()}
    assert swap(model, "window", left=2, right=1) == 2
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    layer = model[0].attention
    q, k, v = layer.project(X, None, 0)
    expected = attention(q, k, v, mask=masks.window(2, 1))
    expected = layer.project_out(expected.transpose(1, 2).flatten(2))
    torch.testing.assert_close(layer(X), expected)
    assert swap(nn.Linear(2, 2), "linear") == 0


def test_swap_changes_nothing_when_a_layer_cannot_take_the_mechanism(monkeypatch):
    model = nn.ModuleList([MultiHeadAttention(16, 4), MultiHeadAttention(16, 4, num_kv_heads=2)])
    original = multihead.MechanismSpec.supports

    def supports(spec, capability):
        return capability != "grouped_heads" and original(spec, capability)

    monkeypatch.setattr(multihead.MechanismSpec, "supports", supports)
    with pytest.raises(UnsupportedError, match="linear lacks the capability grouped_heads"):
        swap(model, "linear")
    assert [layer.spec.name for layer in model] == ["softmax", "softmax"]
    with pytest.raises(ValueError, match="window has no option 'size'"):
        swap(model, "window", size=3)


def test_recurrent_layers_have_no_query_projection_and_stream():
    torch.manual_seed(0)
    layer = MultiHeadAttention(16, 4, mechanism="scan")
    assert layer.project_in.weight.shape == (32, 16)
    valid = torch.ones(2, 10, dtype=torch.bool)
    valid[1, :3] = False
    full = layer(X, mask=masks.keys(valid))
    k, v = (part.unflatten(-1, (4, 4)).transpose(1, 2) for part in layer.project_in(X).chunk(2, -1))
    query = layer.mechanism.query[None, :, None].expand(2, -1, 10, -1)
    expected = attention(query, k, v, mask=masks.causal() & masks.keys(valid))
    torch.testing.assert_close(full, layer.project_out(expected.transpose(1, 2).flatten(2)))
    cache = KeyValueCache()
    parts = [
        layer(X[:, part], mask=masks.keys(valid[:, part]), cache=cache)
        for part in (slice(0, 4), slice(4, 5), slice(5, 10))
    ]
    torch.testing.assert_close(torch.cat(parts, 1), full, atol=1e-6, rtol=1e-5)
    with pytest.raises(UnsupportedError, match="scan has a query of its own and cannot attend"):
        layer(X, CONTEXT)
    with pytest.raises(UnsupportedError, match="scan takes no bias"):
        layer(X, bias=torch.zeros(10, 10))


def test_swap_to_a_recurrent_mechanism_drops_the_queries_and_does_not_go_back():
    layer = MultiHeadAttention(16, 4)
    keys_and_values = layer.project_in.weight[16:].clone()
    assert swap(layer, "scan") == 1
    assert torch.equal(layer.project_in.weight, keys_and_values)
    assert layer(X).shape == X.shape
    with pytest.raises(UnsupportedError) as error:
        swap(layer, "softmax")
    assert str(error.value) == (
        "swap: nothing was changed; MultiHeadAttention: scan layers have no projection of queries "
        "for softmax; "
        "build the model with mechanism='softmax'"
    )

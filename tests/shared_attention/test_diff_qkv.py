"""DiffQKV: the layer, its cache, and heads of keys and values in different numbers."""

from __future__ import annotations

import math

import pytest
import torch

from shared_attention import UnsupportedError, attention, catalogue, masks
from shared_attention.layers import DiffQKVAttention, KeyValueCache, RotaryPositions
from shared_attention.primitives.heads import expand_heads

X = torch.randn(2, 9, 24, generator=torch.Generator().manual_seed(0))
VALID = torch.arange(9) >= torch.tensor([[0], [4]])


def build(**options):
    torch.manual_seed(0)
    sizes = {"head_dim": 6, "key_dim": 4, "value_dim": 5} | options
    return DiffQKVAttention(24, 8, 2, 4, **sizes)


def test_is_attention_to_keys_widened_as_the_paper_does():
    layer = build()
    q, k, v = layer.project_in(X).split(layer.widths, dim=-1)
    q, k, v = (x.unflatten(-1, (n, -1)).transpose(1, 2) for x, n in ((q, 8), (k, 2), (v, 4)))
    k, v = expand_heads(k @ layer.key_up[None], 8), expand_heads(v, 8)
    weights = (q @ k.mT / math.sqrt(6)).softmax(-1)
    out = layer.project_out((weights @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(layer(X), out)


@pytest.mark.parametrize("options", [{}, {"key_dim": 6}, {"positions": RotaryPositions(4)}])
@pytest.mark.parametrize("sizes", [(1,) * 9, (4, 5), (9,)])
@pytest.mark.parametrize("padded", [False, True])
def test_streaming_is_the_whole(options, sizes, padded):
    layer = build(**options)
    mask = masks.causal() & masks.keys(VALID) if padded else masks.causal()
    cache, parts, at = KeyValueCache(), [], 0
    for size in sizes:
        own = slice(at, at + size)
        part = masks.keys(VALID[:, own]) if padded else None
        parts.append(layer(X[:, own], mask=part, cache=cache))
        at += size
    torch.testing.assert_close(torch.cat(parts, 1), layer(X, mask=mask))
    assert cache.length == 9


def test_the_cache_holds_narrow_keys_and_repeats_no_head():
    cache, layer = KeyValueCache(), build()
    with torch.no_grad():
        for i in range(9):
            layer(X[:, i : i + 1], cache=cache)
    kept = sum(x.untyped_storage().nbytes() for x in (cache.state.k, cache.state.v))
    assert kept == 4 * 2 * 9 * (2 * 4 + 4 * 5)
    assert kept < 0.31 * 4 * 2 * 9 * (2 * 8 * 6)


def test_queries_may_be_wider_than_the_model():
    layer = build(head_dim=12)
    assert layer.widths[0] == 4 * 24 and layer(X).shape == X.shape


@pytest.mark.parametrize("length", [1, 5])
@pytest.mark.parametrize("heads", [(2, 4), (4, 2), (4, 8), (2, 8), (3, 4)])
def test_key_and_value_heads_may_differ_in_number(heads, length):
    random = torch.Generator().manual_seed(1)
    q = torch.randn(2, 24, length, 6, generator=random)
    k = torch.randn(2, heads[0], 7, 6, generator=random)
    v = torch.randn(2, heads[1], 7, 5, generator=random)
    wide = expand_heads(k, 24), expand_heads(v, 24)
    for mask in (None, masks.causal(), masks.keys(VALID[:, :7])):
        for backend in ("sdpa", "eager"):
            out = attention(q, k, v, mask=mask, backend=backend)
            torch.testing.assert_close(out, attention(q, *wide, mask=mask))


def test_narrow_keys_keep_no_matrix_of_scores():
    kept = []

    def keep(x: torch.Tensor) -> torch.Tensor:
        kept.append(x.numel())
        return x

    layer = DiffQKVAttention(24, 4, 1, 2, 8, key_dim=4)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        layer(torch.randn(1, 1024, 24))
    assert max(kept) < 1024 * 1024


def test_the_mechanism_caches_narrow_keys():
    module = catalogue()["diff_qkv"].build(num_heads=4, head_dim=6, key_dim=2)
    q, k, v = torch.randn(3, 2, 4, 9, 6, generator=torch.Generator().manual_seed(2)).unbind(0)
    state = module.prefill(q, k, v, module.init_state(2, 4, 6, 6))[1]
    assert state.k.shape == (2, 4, 9, 2)


def test_full_width_and_inverse_maps_are_softmax():
    module = catalogue()["diff_qkv"].build(num_heads=4, head_dim=6, key_dim=6)
    module.up.data = torch.linalg.inv(module.down.data)
    q, k, v = torch.randn(3, 2, 4, 9, 6, generator=torch.Generator().manual_seed(2)).unbind(0)
    torch.testing.assert_close(module(q, k, v), attention(q, k, v), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((24, 8, 3, 4), "num_key_heads 3 does not divide num_heads 8"),
        ((24, 8, 2, 5), "num_value_heads 5 does not divide num_heads 8"),
        ((25, 8, 2, 4), "num_heads 8 does not divide d_model 25; give head_dim"),
        ((24, 8, 2, 4, 6, 7), "key_dim got 7, expected 1 to head_dim 6"),
        ((24, 8, 2, 4, 6, 4, 8), "positions have width 8, expected key_dim 4"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(arguments, message):
    *sizes, key_dim, positions = (*arguments, *(None,) * (7 - len(arguments)))
    rotary = None if positions is None else RotaryPositions(positions)
    with pytest.raises(ValueError, match=message):
        DiffQKVAttention(*sizes, key_dim=key_dim, positions=rotary)


def test_a_cache_takes_no_other_mask():
    with pytest.raises(UnsupportedError, match="DiffQKVAttention: with a cache, mask takes"):
        build()(X, mask=masks.window(1, 0), cache=KeyValueCache())

"""log_n and temp_scale beyond the conformance kit: formulas, limits, padding, -inf biases."""

from __future__ import annotations

import math

import pytest
import torch

from shared_attention import attention, attention_output, explain_dispatch, masks
from shared_attention.primitives.visible import visible_keys


def draw(length: int = 9, keys: int = 9):
    random = torch.Generator().manual_seed(length)
    q = torch.randn(2, 4, length, 6, generator=random)
    return q, *torch.randn(2, 2, 4, keys, 6, generator=random).unbind(0)


MASKS = {
    "none": None,
    "causal": masks.causal(),
    "keys": masks.keys(torch.arange(9) < torch.tensor([[9], [4]])),
    "causal and keys": masks.causal() & masks.keys(torch.arange(9) >= torch.tensor([[0], [5]])),
    "window": masks.window(2, 1) & masks.causal(),
    "prefix": masks.causal() | masks.prefix(torch.tensor([3, 1])),
}


@pytest.mark.parametrize("length", [1, 4, 9, 12])
@pytest.mark.parametrize("name", MASKS)
def test_keys_are_counted_as_the_dense_mask_has_them(name, length):
    q, k, _ = draw(length)
    mask = MASKS[name]
    dense = torch.ones(1, 1, 1, 9) if mask is None else mask.to_dense(length, 9)
    seen = visible_keys(mask, q, k)
    shape = (2, 1, length)
    assert torch.equal(seen.expand(shape), dense.long().sum(-1).expand(shape))


def test_log_n_is_softmax_at_base_keys_and_never_flatter_where_told():
    q, k, v = draw()
    torch.testing.assert_close(attention(q, k, v, "log_n", base=9), attention(q, k, v))
    torch.testing.assert_close(attention(q, k, v, "log_n", at_least=1.0), attention(q, k, v))
    ratio = math.log(9) / math.log(512)
    torch.testing.assert_close(
        attention(q, k, v, "log_n"), attention(q, k, v, scale=ratio / math.sqrt(6))
    )


def test_log_n_scales_each_causal_row_by_what_it_sees():
    q, k, v = draw()
    scores = (q @ k.mT / math.sqrt(6)) * (torch.arange(1.0, 10).log() / math.log(512))[:, None]
    scores = scores.masked_fill(torch.ones(9, 9, dtype=torch.bool).triu(1), -math.inf)
    out = attention(q, k, v, "log_n", masks.causal())
    torch.testing.assert_close(out, scores.softmax(-1) @ v)


@pytest.mark.parametrize("mechanism", ["log_n", "temp_scale"])
def test_the_bias_is_part_of_the_scores_and_may_hide_keys(mechanism):
    q, k, v = draw()
    bias = torch.randn(9, 9).masked_fill(torch.ones(9, 9, dtype=torch.bool).triu(1), -math.inf)
    hidden = attention(q, k, v, mechanism, bias=bias)
    assert hidden.isfinite().all()
    if mechanism == "temp_scale":
        scores = (q @ k.mT / math.sqrt(6) + bias) / 0.9
        torch.testing.assert_close(hidden, scores.softmax(-1) @ v)


def test_temp_scale_at_one_is_softmax_and_cold_takes_the_best_key():
    q, k, v = draw()
    torch.testing.assert_close(
        attention(q, k, v, "temp_scale", temperature=1.0), attention(q, k, v)
    )
    best = (q @ k.mT).argmax(-1)
    cold = attention_output(q, k, v, "temp_scale", temperature=1e-5, need=("weights", "lse"))
    assert torch.equal(cold.weights.argmax(-1), best) and (cold.weights.amax(-1) > 0.999).all()


@pytest.mark.parametrize("mechanism", ["log_n", "temp_scale"])
def test_runs_on_the_backends_of_softmax(mechanism):
    q, k, v = draw(64, 64)
    assert explain_dispatch(q, k, v, mechanism).chosen == "sdpa"
    mask = masks.window(3, 0)
    assert explain_dispatch(q, k, v, mechanism, mask).chosen == "blocks"
    torch.testing.assert_close(
        attention(q, k, v, mechanism, mask),
        attention(q, k, v, mechanism, mask, backend="eager"),
    )


@pytest.mark.parametrize(
    ("mechanism", "options", "message"),
    [
        ("log_n", {"base": 1}, "log_n: option base got 1, expected at least 2"),
        ("temp_scale", {"temperature": 0.0}, "temp_scale: option temperature got 0"),
    ],
)
def test_options_out_of_range_are_refused(mechanism, options, message):
    with pytest.raises(ValueError, match=message):
        attention(*draw(), mechanism, **options)

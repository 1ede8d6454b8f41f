"""Sinks, dormant heads, retrieval and calibration on matrices whose answer is known."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_attention import UnsupportedError, explain, masks
from shared_attention.layers import MultiHeadAttention
from shared_attention.layers.cache import KeyValueCache

L = 12


def causal_with_sink(at, share):
    """Causal rows, even but for `share` on key `at` from its own query on."""
    rows = torch.ones(L, L).tril()
    rows = rows / rows.sum(-1, keepdim=True)
    rows[at + 1 :] *= 1 - share
    rows[at + 1 :, at] += share
    return rows / rows.sum(-1, keepdim=True)


def test_sinks_at_the_start_and_later_are_told_apart():
    weights = torch.stack([causal_with_sink(0, 0.8), causal_with_sink(7, 0.8),
                           causal_with_sink(0, 0.0)])[None]  # fmt: skip
    found = explain.find_sinks(weights)
    assert found.first.nonzero().tolist() == [[0, 0, 0]]
    assert [0, 1, 7] in found.later.nonzero().tolist()
    assert not found.later[0, [0, 2]].any()
    expected = weights[0, 1, 7:, 7].mean()
    torch.testing.assert_close(found.received[0, 1, 7], expected)
    with pytest.raises(ValueError, match="alpha got 0"):
        explain.find_sinks(weights, alpha=0)


def test_padding_on_the_left_moves_the_start():
    weights = torch.zeros(1, 1, L + 3, L + 3)
    weights[0, 0, 3:, 3:] = causal_with_sink(0, 0.8)
    found = explain.find_sinks(weights)
    assert found.first.nonzero().tolist() == [[0, 0, 3]]
    assert not found.later.any()
    share = explain.sink_share(weights)
    assert share[..., :3].isnan().all()
    torch.testing.assert_close(share[0, 0, 3:], causal_with_sink(0, 0.8)[:, 0])


def test_even_attention_has_no_sinks_and_few_keys_cannot():
    assert not any(t.any() for t in explain.find_sinks(torch.full((2, 2, 20, 20), 0.05))[1:])
    on_first = torch.full((1, 1, 5, 5), 0.01)
    on_first[..., 0] = 0.96
    assert not explain.find_sinks(on_first).first.any()
    assert explain.find_sinks(on_first, alpha=4).first.sum() == 1


def test_heads_are_sorted_by_where_they_rest():
    share = torch.tensor([[[0.9, 0.9, torch.nan], [0.9, 0.1, 0.1], [0.1, 0.2, 0.1]]])
    context = torch.tensor([[0, 1, 1]])
    means = explain.mean_by_context(share, context)
    torch.testing.assert_close(means, torch.tensor([[0.9, 0.9, 0.1], [0.9, 0.1, 0.15]]))
    kinds = explain.dormant_heads(means)
    assert {name: which.tolist() for name, which in kinds.items()} == {
        "dormant": [True, False, False],
        "active_dormant": [False, True, False],
        "active": [False, False, True],
    }
    none = explain.mean_by_context(share, torch.tensor([[0, -1, 2]]))
    assert none[1].isnan().all() and none[2, 0].isnan() and none[2, 1] == 0.1
    assert explain.dormant_heads(none)["dormant"].tolist() == [True, False, False]
    with pytest.raises(ValueError, match=r"context has shape \[1, 2\]"):
        explain.mean_by_context(share, torch.zeros(1, 2, dtype=torch.long))


def test_norm_ratio_is_of_means():
    vectors = torch.tensor([[[3.0, 4.0], [1.0, 0.0], [0.0, 3.0]]])
    chosen = torch.tensor([[True, False, False]])
    torch.testing.assert_close(explain.norm_ratio(vectors, chosen), torch.tensor([2.5]))
    assert explain.norm_ratio(vectors, ~chosen & chosen).isnan().all()


def retrieval_case():
    tokens = torch.tensor([[9, 1, 2, 3, 7, 1, 2, 1]])
    needle = torch.tensor([[0, 1, 1, 0, 0, 0, 0, 0]]).bool()
    answer = torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1]]).bool()
    weights = torch.zeros(1, 4, 8, 8)
    weights[..., 0] = 0.1
    weights[0, 0, 4, 1] = weights[0, 0, 5, 2] = 1  # copies both
    weights[0, 1, 4, 1] = weights[0, 1, 5, 1] = 1  # the second time another token
    weights[0, 2, 2, 1] = weights[0, 2, 6, 5] = 1  # no answer yet; the answer, not the needle
    weights[0, 3, 4, 1] = weights[0, 3, 6, 1] = 1  # one position twice counts once
    return weights, tokens, needle, answer


def test_retrieval_counts_needle_positions_copied_to_the_answer():
    weights, tokens, needle, answer = retrieval_case()
    scores = explain.retrieval_scores({"a": weights}, tokens, needle, answer)["a"]
    assert scores.tolist() == [1.0, 0.5, 0.0, 0.5]


def test_retrieval_says_what_does_not_fit():
    weights, tokens, needle, answer = retrieval_case()
    with pytest.raises(ValueError, match=r"needle is torch\.int64"):
        explain.retrieval_scores({}, tokens, needle.long(), answer)
    with pytest.raises(ValueError, match="answer has the first position"):
        explain.retrieval_scores({}, tokens, needle, answer | True)
    with pytest.raises(ValueError, match="has no needle"):
        explain.retrieval_scores({}, tokens, needle & False, answer)
    with pytest.raises(ValueError, match=r"expected \[1, H, 8, 8\]"):
        explain.retrieval_scores({"a": weights[..., :7]}, tokens, needle, answer)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 1), st.booleans())
def test_calibrated_rows_keep_their_sum_and_only_later_sinks_lose(seed, beta, causal):
    random = torch.Generator().manual_seed(seed)
    scores = 3 * torch.randn(2, 2, L, L, generator=random)
    scores += 4 * (torch.rand(2, 2, 1, L, generator=random) > 0.8)
    if causal:
        scores = scores.masked_fill(~torch.ones(L, L).tril().bool(), -torch.inf)
    weights = scores.softmax(-1)
    found = explain.find_sinks(weights)
    changed = explain.calibrate(weights, beta=beta)
    torch.testing.assert_close(changed.sum(-1), torch.ones(2, 2, L))
    assert (changed >= 0).all() and (changed[weights == 0] == 0).all()
    later = found.later[:, :, None].expand_as(weights)
    assert (changed <= weights + 1e-6)[later].all()
    assert (changed >= weights - 1e-6)[~later].all()
    assert torch.equal(explain.calibrate(weights, beta=1.0), weights)


def test_calibration_by_hand():
    weights = torch.full((1, 1, 10, 10), 0.04)
    weights[..., 0], weights[..., 6] = 0.08, 0.60
    changed = explain.calibrate(weights, beta=0.5)
    torch.testing.assert_close(changed[0, 0, 3, 6], torch.tensor(0.30))
    torch.testing.assert_close(changed[0, 0, 3, 0], torch.tensor(0.08 * 0.70 / 0.40))
    torch.testing.assert_close(changed[0, 0, 3, 1], torch.tensor(0.04 * 0.70 / 0.40))
    with pytest.raises(ValueError, match="beta got 2"):
        explain.calibrate(weights, beta=2)
    with pytest.raises(UnsupportedError, match="negative"):
        explain.calibrate(-weights)


def layer_with_later_sink(mechanism="softmax"):
    torch.manual_seed(0)
    layer = MultiHeadAttention(8, 2, mechanism=mechanism)
    x = torch.randn(2, L, 8)
    x[:, 5] *= 12
    return layer, x


@pytest.mark.parametrize("mechanism", ["softmax", "linear"])
def test_a_calibrated_layer_attends_with_calibrated_weights(mechanism):
    layer, x = layer_with_later_sink(mechanism)
    with explain.trace(layer) as traces:
        plain = layer(x)
    (seen,) = traces.values()
    changed = explain.calibrate(seen.weights, alpha=1.5)
    assert not torch.allclose(changed[:, 1], seen.weights[:, 1])
    heads = torch.stack([seen.out[:, 0], changed[:, 1] @ seen.values[:, 1]], 2)
    with explain.calibrated(layer, {"": [1]}, alpha=1.5):
        torch.testing.assert_close(layer(x), layer.project_out(heads.flatten(2)))
        with pytest.raises(UnsupportedError, match="called with a cache"):
            layer(x, mask=masks.causal(), cache=KeyValueCache())
    assert torch.equal(layer(x), plain)


def test_heads_to_calibrate_are_those_that_help_alone():
    layer, x = layer_with_later_sink()
    with explain.trace(layer) as traces:
        layer(x)
    sinks = explain.find_sinks(next(iter(traces.values())).weights, alpha=1.5).later
    assert sinks[:, 1].any()
    with explain.calibrated(layer, {"": [1]}, alpha=1.5):
        wish = layer(x).detach()

    def score():
        return float(torch.equal(layer(x), wish))

    assert explain.heads_to_calibrate(layer, score, alpha=1.5) == {"": [1]}
    assert explain.heads_to_calibrate(layer, lambda: 1.0, alpha=1.5) == {}

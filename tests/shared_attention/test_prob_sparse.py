"""ProbSparse attention beyond the conformance kit: the published form, the draw, long inputs."""

from __future__ import annotations

import math

import pytest
import torch

from shared_attention import UnsupportedError, catalogue, masks
from shared_attention.mechanisms import query_sparsity
from shared_attention.mechanisms.prob_sparse import prob_sparse_attention


def draw(length: int, batch: int = 2, heads: int = 2, width: int = 8):
    random = torch.Generator().manual_seed(length)
    return torch.randn(3, batch, heads, length, width, generator=random).unbind(0)


def published(q, k, v, index, factor, causal):
    """The official computation by loops, for the same sampled keys."""
    out = v.cumsum(2) if causal else v.mean(2, keepdim=True).expand_as(v).clone()
    length = q.shape[2]
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            sampled = [(q[b, h, i] * k[b, h, index[i]]).sum(-1) for i in range(length)]
            measure = torch.stack([s.max() - s.sum() / length for s in sampled])
            for i in measure.argsort(descending=True)[: factor * math.ceil(math.log(length))]:
                last = i + 1 if causal else length
                scores = k[b, h, :last] @ q[b, h, i] / math.sqrt(q.shape[-1])
                out[b, h, i] = scores.softmax(0) @ v[b, h, :last]
    return out


@pytest.mark.parametrize("causal", [False, True])
def test_published_form_follows_the_official_code(causal):
    q, k, v = draw(48)
    index = torch.randint(48, (48, 8), generator=torch.Generator().manual_seed(5))
    mask = masks.causal() if causal else None
    ours = prob_sparse_attention(q, k, v, mask=mask, factor=2, seed=5, form="published")
    torch.testing.assert_close(ours, published(q, k, v, index, 2, causal))


@pytest.mark.parametrize("form", ["published", "corrected"])
def test_only_the_published_causal_form_sees_the_future(form):
    q, k, v = draw(64)
    changed = [torch.cat([x[:, :, :32], -2 * x[:, :, 32:]], 2) for x in (q, k, v)]
    before, after = (
        prob_sparse_attention(*x, mask=masks.causal(), factor=2, form=form)[:, :, :32]
        for x in ((q, k, v), changed)
    )
    assert torch.allclose(before, after, atol=1e-6) == (form == "corrected")


def test_causal_rows_that_do_not_attend_are_the_running_mean():
    q, k, v = draw(128)
    out = prob_sparse_attention(q, k, v, mask=masks.causal(), factor=1)
    mean = v.cumsum(2) / torch.arange(1, 129)[:, None]
    full = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    is_mean = (out - mean).abs().amax(-1) < 1e-5
    is_full = (out - full).abs().amax(-1) < 1e-5
    assert (is_mean | is_full).all()
    assert is_mean.float().mean() > 0.5
    assert (is_full & ~is_mean).sum() > 10


def test_seeds_give_different_draws_and_a_generator_replaces_the_seed():
    q, k, v = draw(96)
    first, second = (prob_sparse_attention(q, k, v, seed=seed, factor=1) for seed in (0, 1))
    assert not torch.equal(first, second)
    drawn = [
        prob_sparse_attention(q, k, v, factor=1, generator=torch.Generator().manual_seed(seed))
        for seed in (3, 4)
    ]
    assert not torch.equal(drawn[0], drawn[1])


def test_the_draw_is_uniform_over_the_keys():
    rows = torch.arange(4000)[None]
    index = query_sparsity.random_keys(rows, torch.tensor([[10]]), None, 25, seed=7)
    counts = index.flatten().bincount(minlength=10) / index.numel()
    assert counts.shape == (10,)
    torch.testing.assert_close(counts, torch.full((10,), 0.1), atol=0.005, rtol=0)
    together = (index[0, :, 0] == index[0, :, 1]).float().mean()
    assert abs(together - 0.1) < 0.02


def test_scoring_all_keys_and_fetching_the_sampled_ones_agree(monkeypatch):
    q, k, _ = draw(300)
    index = torch.randint(300, (1, 300, 20), generator=torch.Generator().manual_seed(0))
    seen = torch.tensor([[300]])
    whole = query_sparsity.sparsity(q, k, index, None, seen)
    monkeypatch.setattr(query_sparsity, "GATHER_FROM", 1)
    torch.testing.assert_close(query_sparsity.sparsity(q, k, index, None, seen), whole)
    monkeypatch.setattr(query_sparsity, "BLOCK", 1000)
    torch.testing.assert_close(query_sparsity.sparsity(q, k, index, None, seen), whole)


def test_leading_rows_are_those_in_the_top_of_their_prefix():
    measure = torch.randn(2, 3, 100, generator=torch.Generator().manual_seed(0))
    none = measure.new_full((*measure.shape[:2], 7), -torch.inf)
    leads = query_sparsity.leading(measure, none, block=16)[0]
    for i in range(100):
        rank = (measure[..., :i] >= measure[..., i, None]).sum(-1)
        assert torch.equal(leads[..., i], rank < 7)


def test_cross_attention_of_equal_lengths_can_say_so():
    q, k, v = draw(9)
    valid = torch.arange(9).expand(2, -1) < 3
    out = prob_sparse_attention(q, k, v, mask=masks.keys(valid), self_attention=False)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k[:, :, :3], v[:, :, :3])
    torch.testing.assert_close(out, expected)


def test_refusals_say_what_and_why():
    q, k, v = draw(9)
    valid = torch.ones(2, 9, dtype=torch.bool)
    with pytest.raises(UnsupportedError, match="form='published' cannot honour a key mask"):
        prob_sparse_attention(q, k, v, mask=masks.keys(valid), form="published")
    with pytest.raises(UnsupportedError, match="as many queries as keys, got 4 queries and 9"):
        prob_sparse_attention(q[:, :, :4], k, v, mask=masks.causal(), form="published")
    with pytest.raises(ValueError, match="prob_sparse: factor got 0, expected at least 1"):
        prob_sparse_attention(q, k, v, factor=0)
    with pytest.raises(ValueError, match="form got 'paper', expected 'corrected' or 'published'"):
        prob_sparse_attention(q, k, v, form="paper")
    with pytest.raises(ValueError, match="self_attention=True got 4 queries and 9 keys"):
        mask = masks.keys(valid)
        prob_sparse_attention(q[:, :, :4], k, v, mask=mask, self_attention=True)


def test_the_published_form_has_no_state():
    module = catalogue()["prob_sparse"].build(num_heads=2, head_dim=8, form="published")
    q = torch.randn(1, 2, 1, 8)
    with pytest.raises(UnsupportedError, match="reads the future"):
        module.step(q, q, q, module.init_state(1, 2, 8, 8))

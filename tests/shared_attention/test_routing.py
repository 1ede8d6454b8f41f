"""Routing attention beyond the conformance kit: limits, centroids, the published form."""

from __future__ import annotations

import pytest
import torch

from shared_attention import UnsupportedError, attention, masks
from shared_attention.mechanisms.routing import RoutingAttention
from shared_attention.references.routing import reference_routing
from shared_attention.testing import check_mechanism


def draw(length: int):
    return torch.randn(3, 2, 2, length, 8, generator=torch.Generator().manual_seed(5)).unbind(0)


def build(**options) -> RoutingAttention:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return RoutingAttention(num_heads=2, head_dim=8, **options).eval()


@pytest.mark.parametrize("causal", [False, True])
def test_windows_shorter_than_clusters(causal):
    q, k, v = draw(150)
    module = build(clusters=3, window=4)
    mask = masks.keys(torch.rand(2, 150, generator=torch.Generator().manual_seed(1)) > 0.2)
    mask = mask & masks.causal() if causal else mask
    parameters = {"centroids": module.centroids.double()}
    expected = reference_routing(q, k, v, mask=mask, parameters=parameters, window=4)
    torch.testing.assert_close(module(q, k, v, mask), expected.float())


def test_one_cluster_is_window_attention():
    q, k, v = draw(70)
    out = build(clusters=1, window=6)(q, k, v, masks.causal())
    torch.testing.assert_close(out, attention(q, k, v, "window", masks.causal(), left=5))


def test_training_moves_centroids_after_an_output_that_is_the_same():
    q, k, v = draw(70)
    module = build(clusters=4, decay=0.5)
    evaluated, before = module(q, k, v), module.centroids.clone()
    torch.testing.assert_close(module.centroids, before)
    rich = module.train().output(q, k, v)
    torch.testing.assert_close(rich.out, evaluated)
    after = module.output(q, k, v).aux["commitment"]
    assert not torch.equal(module.centroids, before)
    assert after < rich.aux["commitment"]
    torch.testing.assert_close(module.centroids.norm(dim=-1), torch.ones(2, 4))


def test_commitment_counts_real_tokens_only_and_reaches_queries_and_keys():
    q, k, v = draw(30)
    module = build(clusters=4)
    valid = torch.arange(30).expand(2, -1) < 20
    cut = [x[:, :, :20].clone().requires_grad_() for x in (q, k, v)]
    alone = module.output(*cut).aux["commitment"]
    padded = module.output(q, k, v, masks.keys(valid)).aux["commitment"]
    torch.testing.assert_close(padded, alone)
    gradients = torch.autograd.grad(alone, cut[:2])
    assert all(x.abs().max() > 0 for x in gradients)


def test_the_published_form_leaves_tokens_out_and_leaks_the_future():
    q, k, v = draw(120)
    published = build(clusters=6, window=20, form="published")
    corrected = build(clusters=6, window=20)
    later = [x.clone() for x in (q, k, v)]
    for x in later[:2]:
        x[:, :, 60:] *= -1
    changed = {}
    for name, module in (("published", published), ("corrected", corrected)):
        out, other = module(q, k, v, masks.causal()), module(*later, masks.causal())
        changed[name] = int(((out - other)[:, :, :60].abs().amax(-1) > 1e-6).sum())
    assert changed["corrected"] == 0 < changed["published"]
    assert (published(q, k, v) == 0).all(-1).any() and not (corrected(q, k, v) == 0).all(-1).any()


def test_refusals_say_what_and_why():
    q, k, v = draw(9)
    with pytest.raises(UnsupportedError, match="routing: form='published' cannot honour a key"):
        build(form="published")(q, k, v, masks.keys(torch.ones(2, 9).bool()))
    with pytest.raises(UnsupportedError, match="an additive bias"):
        build()(q, k, v, bias=torch.zeros(9, 9))
    with pytest.raises(ValueError, match="routing: q has 1 heads, expected num_heads = 2"):
        build()(q[:, :1], k[:, :1], v[:, :1])
    with pytest.raises(ValueError, match="option window got 0"):
        build(window=0)


@pytest.mark.parametrize("options", [{"clusters": 4, "window": 3}, {"clusters": 1, "window": 1}])
def test_a_stream_keeps_the_last_members_of_each_cluster(options):
    report = check_mechanism("routing", options=options, checks=("state",))
    assert report.ok, report
    q, k, v = draw(90)
    module = build(**options)
    state = module.prefill(q, k, v, module.init_state(2, 2, 8, 8))[1]
    assert state.k.shape == state.v.shape == (2, 2, options["clusters"], options["window"], 8)
    assert (state.total.sum(-1) == 90).all()


def test_the_published_form_has_no_state():
    with pytest.raises(UnsupportedError, match="reads the future"):
        build(form="published").init_state(1, 2, 8, 8)

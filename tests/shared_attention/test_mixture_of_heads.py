"""Mixture of heads beyond the conformance kit: routing, skipping, the balance loss, layers."""

from __future__ import annotations

import math

import pytest
import torch

from shared_attention import UnsupportedError, attention, catalogue, masks
from shared_attention.layers import MultiHeadAttention
from shared_attention.mechanisms import mixture_of_heads as moh
from shared_attention.primitives import attend_rows as rows
from shared_attention.primitives.biased_attention import biased_attention
from shared_attention.testing import check_mechanism


def build(heads: int = 4, **options):
    torch.manual_seed(0)
    module = catalogue()["mixture_of_heads"].build(num_heads=heads, head_dim=6, **options)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def draw(length: int = 200, heads: int = 4, batch: int = 2):
    random = torch.Generator().manual_seed(length)
    inputs = torch.randn(4, batch, heads, length, 6, generator=random).unbind(0)
    return tuple(x.requires_grad_() for x in inputs)


def test_a_fresh_layer_that_takes_every_head_is_plain_attention():
    q, k, v, x = draw(9)
    module = build(shared=1, active=3)
    for parameter in module.parameters():
        parameter.data.zero_()
    torch.testing.assert_close(module(q, k, v, inputs=x), attention(q, k, v))


def test_gates_follow_the_two_stages_of_routing():
    x = draw(50, heads=6)[3]
    module = build(heads=6, shared=2, active=3)
    gates = module.route(x).gates.transpose(1, 2)
    flat = x.transpose(1, 2).flatten(2)
    balance = 2 * (flat @ module.balance_weight.T).softmax(-1)
    share = 2 * (flat @ module.shared_weight.T).softmax(-1) * balance[..., :1]
    torch.testing.assert_close(gates[..., :2], share)
    taken = gates[..., 2:]
    assert ((taken > 0).sum(-1) == 3).all()
    torch.testing.assert_close(taken.sum(-1), 3 * balance[..., 1])
    order = (flat @ module.routed_weight.T).argsort(-1, descending=True)
    assert (taken.take_along_dim(order, -1)[..., :3] > 0).all()


BIAS = torch.randn(4, 200, 200, generator=torch.Generator().manual_seed(3))
HIDDEN = torch.rand(1, 4, 200, 200, generator=torch.Generator().manual_seed(4)) > 0.2
CASES = {
    "plain": {},
    "causal": {"mask": masks.causal()},
    "causal padded": {
        "mask": masks.causal() & masks.keys(torch.arange(200) < torch.tensor([[200], [90]]))
    },
    "each head its own mask": {"mask": masks.dense(HIDDEN)},
    "bias": {"bias": BIAS.requires_grad_()},
    "bias and window": {"mask": masks.window(20, 5), "bias": BIAS[0]},
}


@pytest.mark.parametrize("skew", [0.0, 30.0], ids=["balanced", "collapsed"])
@pytest.mark.parametrize("case", CASES)
def test_skipped_heads_change_nothing_and_get_no_less_gradient(case, skew, monkeypatch):
    q, k, v, x = draw()
    module = build(active=1)
    module.routed_weight.data[0] += skew * x.detach().mean((0, 2)).flatten()
    arguments = CASES[case] | {"inputs": x}
    called = []
    monkeypatch.setattr(
        moh, "attend_rows", lambda *a, **n: called.append(1) or rows.attend_rows(*a, **n)
    )
    skipping = module(q, k, v, **arguments)
    assert called
    monkeypatch.setattr(moh, "WORTHWHILE", 10**9)
    whole = module(q, k, v, **arguments)
    assert len(called) == 1
    torch.testing.assert_close(skipping, whole)
    leaves = (q, k, v, x, *module.parameters())
    weight = torch.randn(whole.shape, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad(skipping, leaves, weight)
    for mine, theirs in zip(found, torch.autograd.grad(whole, leaves, weight), strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=1e-4)


def test_skipping_passes_the_conformance_kit(monkeypatch):
    monkeypatch.setattr(moh, "WORTHWHILE", 0)
    skippable = ("prefix consistency", "state", "padding", "hidden keys", "empty rows")
    report = check_mechanism("mixture_of_heads", checks=("agrees with the reference", *skippable))
    assert report.ok, str(report)


def test_rows_that_no_token_takes_are_not_computed(monkeypatch):
    q, k, v, _ = draw()
    computed = []
    fused = rows.fused_attention

    def count(q, k, v, **options):
        computed.append(q.shape[0] * q.shape[1] * q.shape[2])
        return fused(q, k, v, **options)

    monkeypatch.setattr(rows, "fused_attention", count)
    chosen = torch.zeros(2, 4, 200, dtype=torch.bool)
    chosen[:, 0] = True
    chosen[0, 2, 7] = True
    out = rows.attend_rows(q, k, v, chosen)
    assert sum(computed) <= 3 * 200
    torch.testing.assert_close(out[:, 0], attention(q, k, v)[:, 0])
    assert (out.detach()[~chosen] == 0).all()
    assert (rows.attend_rows(q, k, v, torch.zeros_like(chosen)) == 0).all()


def test_nan_in_one_sample_stays_there_forward_and_backward():
    q, k, v, x = (t.detach().clone() for t in draw())
    q[0, :, :50] = torch.nan
    leaves = tuple(t.requires_grad_() for t in (q, k, v))
    out = build()(*leaves, inputs=x)
    assert out[1].isfinite().all()
    for gradient in torch.autograd.grad(out[1].sum(), leaves):
        assert gradient[1].isfinite().all()


def test_load_balance_is_least_where_heads_are_taken_alike():
    q, k, v, x = draw()
    module = build(shared=1, active=1)
    module.routed_weight.data.zero_()
    even = module.output(q, k, v, need=("aux",), inputs=x).aux
    torch.testing.assert_close(even["load_balance"], torch.tensor(1.0))
    module.routed_weight.data[0] = 100 * x.detach().transpose(1, 2).flatten(2)[0, 0]
    own = x.detach()[:1, :, :1]
    one = module.output(own, own, own, need=("aux",), inputs=own).aux
    torch.testing.assert_close(one["load_balance"], torch.tensor(3.0))
    torch.testing.assert_close(one["load"], torch.tensor([1.0, 0.0, 0.0]))


def test_load_does_not_count_padding():
    q, k, v, x = draw()
    valid = torch.arange(200).expand(2, -1) < 120
    module = build()
    padded = module.output(q, k, v, masks.keys(valid), need=("aux",), inputs=x).aux
    short = [t[:, :, :120] for t in (q, k, v, x)]
    alone = module.output(*short[:3], need=("aux",), inputs=short[3]).aux
    for name, value in alone.items():
        torch.testing.assert_close(padded[name], value)


def test_layers_give_the_loss_and_the_weights():
    torch.manual_seed(0)
    layer = MultiHeadAttention(24, 4, mechanism="mixture_of_heads")
    x = torch.randn(2, 7, 24)
    rich = layer.output(x, mask=masks.causal(), need=("aux", "weights"))
    torch.testing.assert_close(rich.out, layer(x, mask=masks.causal()))
    v = layer.project(x, None, 0)[2]
    torch.testing.assert_close(layer._join(rich.weights @ v), rich.out)
    rich.aux["load_balance"].backward()
    assert layer.mechanism.routed_weight.grad.abs().sum() > 0
    with pytest.raises(UnsupportedError, match="lacks the capability lse"):
        layer.output(x, need=("lse",))
    with pytest.raises(UnsupportedError, match="mixture_of_heads: output gives no state"):
        layer.output(x, need=("state",))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shared": 5}, "shared got 5, expected 0 to 4"),
        ({"shared": 1, "active": 4}, "active got 4, expected 1 to 3"),
        ({"shared": 1, "active": 0}, "active got 0, expected 1 to 3"),
        ({"shared": 4, "active": 1}, "active got 1, expected 0 to 0"),
    ],
)
def test_numbers_of_heads_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


@pytest.mark.parametrize(("heads", "shared"), [(1, None), (4, 4), (4, 0)])
def test_all_shared_and_all_routed(heads, shared):
    q, k, v, x = draw(150, heads)
    module = build(heads, shared=shared)
    out = module(q, k, v, inputs=x)
    gates = module.route(x).gates[..., None]
    torch.testing.assert_close(out, attention(q, k, v) * gates)


@pytest.mark.parametrize("shared", [1, 2], ids=["own keys", "grouped keys"])
def test_biases_read_by_row_equal_biases_laid_out(shared):
    torch.manual_seed(0)
    q = torch.randn(2, 4, 7, 3, dtype=torch.float64, requires_grad=True)
    k, v = torch.randn(2, 2, 4 // shared, 5, 3, dtype=torch.float64, requires_grad=True).unbind()
    bias = torch.randn(6, 5, dtype=torch.float64).index_fill_(0, torch.tensor(4), -math.inf)
    bias.requires_grad_()
    chosen = torch.randint(6, (2, 4, 7))
    laid = bias[chosen]
    found = biased_attention(q, k, v, bias, 0.7, chosen)
    expected = biased_attention(q, k, v, laid, 0.7)
    assert (chosen == 4).any()
    assert (found[chosen == 4] == 0).all()
    torch.testing.assert_close(found, expected)
    weight = torch.randn_like(found)
    mine = torch.autograd.grad(found, (q, k, v, bias), weight)
    theirs = torch.autograd.grad(expected, (q, k, v, bias), weight)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b)

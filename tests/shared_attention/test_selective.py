"""Selective attention beyond the conformance kit: formulas, limits, what the temperatures read."""

from __future__ import annotations

import math

import pytest
import torch

from shared_attention import attention, catalogue, masks
from shared_attention.mechanisms.selective import SelectiveAttention

PLAIN = {"query": False, "position": False, "value": False}


def draw():
    random = torch.Generator().manual_seed(0)
    return torch.randn(3, 2, 4, 9, 6, generator=random).unbind(0)


def build(**options):
    torch.manual_seed(0)
    module = catalogue()["selective"].build(num_heads=4, head_dim=6, **options)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def test_without_temperatures_it_is_softmax_and_has_no_parameters():
    module = build(**PLAIN)
    assert not list(module.parameters())
    torch.testing.assert_close(module(*draw()), attention(*draw()))


def test_position_term_is_the_published_one():
    q, k, v = draw()
    module = build(**PLAIN | {"position": True})
    beta = torch.tensor(0.7)
    share = torch.exp(-torch.exp(beta))
    module.position_logit.data.fill_(torch.logit(share))
    scores = q @ k.mT / math.sqrt(6) * (1 + share * torch.arange(1.0, 10).log())[:, None]
    scores = scores.masked_fill(torch.ones(9, 9, dtype=torch.bool).triu(1), -math.inf)
    torch.testing.assert_close(module(q, k, v, masks.causal()), scores.softmax(-1) @ v)


def test_starts_where_the_official_code_does():
    module = SelectiveAttention(4, 6)
    share = torch.sigmoid(module.position_logit)
    torch.testing.assert_close(share, torch.full((4,), math.exp(-math.exp(2))), rtol=1e-3, atol=0)


def test_queries_are_tempered_by_the_layer_s_input_and_values_by_their_keys():
    q, k, v = draw()
    x = torch.randn(2, 4, 9, 6, generator=torch.Generator().manual_seed(5))
    module = build(position=False)
    token = (x * module.query_weight[:, None]).sum(-1) + module.query_bias[:, None]
    scores = q @ k.mT / math.sqrt(6) * (1 + token.tanh())[..., None]
    value = 1 + torch.tanh((k * module.value_weight).sum(-1) + module.value_bias)
    out = scores.softmax(-1) @ (v * value[..., None])
    torch.testing.assert_close(module(q, k, v, inputs=x), out)
    assert not torch.allclose(module(q, k, v), out)


def test_padding_does_not_change_the_position_term():
    q, k, v = draw()
    module = build()
    valid = torch.arange(9).expand(2, -1) < 5
    whole = module(q, k, v, masks.keys(valid))
    torch.testing.assert_close(whole[:, :, :5], module(*(x[:, :, :5] for x in (q, k, v))))


def test_inputs_of_another_shape_are_refused():
    q, k, v = draw()
    with pytest.raises(ValueError, match=r"selective: inputs has shape \[2, 4, 5, 6\], expected"):
        build()(q, k, v, inputs=q[:, :, :5])

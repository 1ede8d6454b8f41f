"""Any mechanism of families attention and recurrent serves a multi-head layer."""

from __future__ import annotations

import pytest
import torch

from shared_attention import catalogue, masks, swap
from shared_attention.layers import KeyValueCache, MultiHeadAttention

SERVING = [name for name, spec in catalogue().items() if spec.family in ("attention", "recurrent")]


def layer(name: str) -> MultiHeadAttention:
    torch.manual_seed(0)
    return MultiHeadAttention(16, 4, mechanism=name).eval()


def causal(name: str) -> masks.Mask | None:
    spec = catalogue()[name]
    return masks.causal() if spec.family == "attention" and spec.supports("causal") else None


@pytest.mark.parametrize("name", SERVING)
def test_a_layer_runs_and_its_gradients_reach_every_parameter(name):
    module = layer(name)
    x = torch.randn(2, 20, 16, generator=torch.Generator().manual_seed(1))
    out = module(x, mask=causal(name))
    assert out.shape == x.shape
    out.square().sum().backward()
    silent = [n for n, p in module.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@pytest.mark.parametrize("name", [n for n in SERVING if catalogue()[n].supports("state")])
def test_a_layer_streams_from_its_cache(name):
    module = layer(name)
    x = torch.randn(2, 20, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = module(x, mask=causal(name))
        cache = KeyValueCache()
        parts = [module(part, cache=cache) for part in x.split([7, 1, 12], dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", SERVING)
def test_a_built_model_gets_the_mechanism(name):
    module = layer("softmax")
    assert swap(module, name) == 1
    x = torch.randn(2, 20, 16, generator=torch.Generator().manual_seed(1))
    own = layer(name)
    own.load_state_dict(module.state_dict())
    torch.testing.assert_close(module(x, mask=causal(name)), own(x, mask=causal(name)))

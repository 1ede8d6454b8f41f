"""Regularisers work with every mechanism that claims what they need, and refuse the others."""

from __future__ import annotations

import pytest
import torch

from shared_attention import UnsupportedError, catalogue, masks
from shared_attention.layers import MultiHeadAttention
from shared_attention.regularisers import (
    attended,
    attention_ivat,
    attention_vat,
    entropy_loss,
    worst_perturbation,
)

X = torch.randn(2, 12, 16, generator=torch.Generator().manual_seed(0))
SPECS = {n: s for n, s in catalogue().items() if s.family in ("attention", "recurrent")}


def layer_of(name: str) -> tuple[MultiHeadAttention, masks.Mask | None]:
    spec = SPECS[name]
    layer = MultiHeadAttention(16, 4, mechanism=name, mechanism_options=dict(spec.example)).eval()
    always = spec.family == "attention" and spec.capabilities.causal == "always"
    return layer, masks.causal() if always else None


@pytest.mark.parametrize("name", SPECS)
def test_recorded_weights_give_the_output_and_entropy_its_gradient(name):
    layer, mask = layer_of(name)
    if not SPECS[name].supports("linear_in_v"):
        with pytest.raises(UnsupportedError, match="linear_in_v"), attended(layer):
            pass
        return
    with attended(layer) as calls:
        out = layer(X, mask=mask)
    v = layer.project(X, None, 0)[2]
    joined = layer.project_out((calls[0].weights @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(joined, out, atol=1e-5, rtol=1e-5)
    entropy_loss(calls).backward()
    gradient = layer.project_in.weight.grad
    assert gradient.isfinite().all() and gradient.abs().sum() > 0


@pytest.mark.parametrize("name", SPECS)
def test_perturbations_raise_the_loss_or_are_refused(name):
    layer, mask = layer_of(name)
    if not SPECS[name].supports("bias_grad"):
        with pytest.raises(UnsupportedError, match="bias_grad"):
            attention_vat(layer, lambda: layer(X, mask=mask))
        return
    worst = worst_perturbation(layer, lambda: layer(X, mask=mask).square().sum(), epsilon=1.0)
    lengths = worst[""][0].norm(dim=-1)
    assert (lengths > 0.5).any()
    torch.testing.assert_close(lengths[lengths > 0], torch.ones(int((lengths > 0).sum())))
    if SPECS[name].supports("linear_in_v"):
        assert attention_ivat(layer, lambda: layer(X, mask=mask)) > 0
